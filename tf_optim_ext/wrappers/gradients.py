"""Gradients of a loss that is computed again."""

import tensorflow as tf

from tf_optim_ext import _keras, checks


def model_and_variables(var_list):
    """The model, or None; and a list of variables, or a callable that returns one."""
    if isinstance(var_list, (list, tuple)):
        return None, var_list
    if checks.is_variable(var_list):
        return None, [var_list]
    if hasattr(type(var_list), "trainable_variables"):  # which a model built late cannot tell yet
        return var_list, lambda: var_list.trainable_variables
    if callable(var_list):
        return None, var_list
    raise ValueError(
        "`var_list` must be a model, a list of variables, or a callable that returns one. "
        f"Received: {var_list!r} of type {type(var_list).__name__}"
    )


def chain(optimizer):
    """An optimizer and those within it, as of a `LossScaleOptimizer`."""
    chain = []
    while optimizer is not None:
        chain.append(optimizer)
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return chain


def gradients_of(loss, optimizers, grad_loss, var_list):
    """What `loss` returns, its gradients, scaled as optimizers want them, and their variables.

    Args:
        loss: the callable.
        optimizers: the chain of optimizers, from the outermost.
        grad_loss: weights of the loss, or None.
        var_list: list of variables; or callable that returns one, once the loss is computed.
    """
    with tf.GradientTape() as tape:
        if isinstance(var_list, (list, tuple)):
            checks.variables(var_list, id)
            tape.watch([_keras.tensorflow_variable(v) for v in var_list])
        value = loss()
        of_loss = value[0] if isinstance(value, tuple) else value
        if grad_loss is not None:
            of_loss *= tf.cast(grad_loss, of_loss.dtype)
        # Keras 2 has a call for that, and unscales gradients by another one.
        by_call = [each for each in optimizers if hasattr(each, "get_scaled_loss")]
        if by_call:
            of_loss = by_call[0].get_scaled_loss(of_loss)
        elif hasattr(optimizers[0], "scale_loss"):
            of_loss = optimizers[0].scale_loss(of_loss)
    variables = list(var_list() if callable(var_list) else var_list)
    checks.variables(variables, id)
    gradients = tape.gradient(of_loss, variables) if variables else []
    if by_call:
        gradients = by_call[0].get_unscaled_gradients(gradients)
    return value, gradients, variables
