"""The calls of TensorFlow 2.0's optimizers that Keras 3 dropped."""

import contextlib

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import replica
from tf_optim_ext.engine import call, graphs, replicas
from tf_optim_ext.state.state import State


class Interface(State):
    """Base of `Optimizer`: `minimize` and its parts, `get_updates`, `add_weight`, `lr` ..."""

    @tf.autograph.experimental.do_not_convert
    def minimize(self, loss, var_list, grad_loss=None, name=None, tape=None):
        """Computes gradients of `loss` and applies them.

        Args:
            loss: callable without arguments that returns the loss; or a tensor, with its `tape`.
            var_list: variables to update: a list, a tuple, or a callable that returns one. A
                callable is called after `loss`, so that a model may create its variables there.
            grad_loss: tensor of the shape of the loss that weights it.
            name: ignored; accepted for compatibility.
            tape: the `tf.GradientTape` under which a tensor `loss` was computed. May also be the
                third argument.

        Returns:
            What `apply_gradients` returns.

        Raises:
            ValueError: a tensor `loss` without `tape`, or something in `var_list` is no variable.
        """
        grad_loss, tape = _weights_and_tape(grad_loss, tape)
        # By the names that either generation of `tf.keras` knows: a subclass may override one.
        return self.apply_gradients(self._compute_gradients(loss, var_list, grad_loss, tape))

    @tf.autograph.experimental.do_not_convert
    def compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        """The first part of `minimize`, whose arguments and errors it has.

        Returns:
            List of pairs of a gradient, or None, and a variable, for `apply_gradients`: multiplied
            by `loss_scale_factor`, which divides there.
        """
        grad_loss, tape = _weights_and_tape(grad_loss, tape)
        if not callable(loss) and tape is None:
            raise ValueError(
                "`minimize` and `compute_gradients` need the `tape` under which a tensor `loss` "
                "was computed. Otherwise give a callable that computes the loss."
            )
        if callable(loss):
            tape = tf.GradientTape() if tape is None else tape
            with tape:
                if not callable(var_list):
                    tape.watch([_keras.tensorflow_variable(v) for v in _as_variables(var_list)])
                loss = loss()
        variables = _as_variables(var_list() if callable(var_list) else var_list)
        # Scaling what flows back scales every gradient, and needs no op on the tape.
        weights = tf.ones_like(loss) if grad_loss is None else tf.cast(grad_loss, loss.dtype)
        gradients = tape.gradient(loss, variables, self.scale_loss(weights))
        return list(zip(gradients, variables))

    @tf.autograph.experimental.do_not_convert
    def _compute_gradients(self, loss, var_list, grad_loss=None, tape=None):
        weights = {} if grad_loss is None else {"grad_loss": grad_loss}
        return self.compute_gradients(loss, var_list, tape=tape, **weights)

    @tf.autograph.experimental.do_not_convert
    def aggregate_gradients(self, grads_and_vars):
        """Sums gradients over the replicas of a strategy, as `apply_gradients` does by itself.

        Args:
            grads_and_vars: see `apply_gradients`.

        Returns:
            List of pairs, for `apply_gradients(..., skip_gradients_aggregation=True)`.

        Raises:
            RuntimeError: called outside a replica.
            TypeError, ValueError: see `apply_gradients`.
        """
        gradients, variables = checks.pairs(grads_and_vars)
        replicas.check_inside(self)
        if not gradients:
            return []
        present, kept, _ = self._check(gradients, variables)
        summed = iter(self._sum_over_replicas(present, kept))
        return [(None if g is None else next(summed), v) for g, v in zip(gradients, variables)]

    def _as_one_call(self, step, gradients_are_summed):
        """Takes a step; what `apply_gradients` returns."""
        arguments = {"summed": True} if gradients_are_summed else {}

        def run():
            with call.arguments(self, **arguments) if arguments else contextlib.nullcontext():
                step()
            return self._counter

        if _keras.keeps_order():
            return run()
        return graphs.one_operation(self, lambda: tf.identity(replica.read(run())))

    def get_gradients(self, loss, params):
        """Symbolic gradients, in a graph or `tf.function`, clipped and centralized as configured.

        Args:
            loss: tensor of the graph.
            params: list of variables.

        Returns:
            List of tensors.

        Raises:
            ValueError: `loss` does not depend on one of `params`.
            RuntimeError: called eagerly.
        """
        if tf.executing_eagerly():
            raise RuntimeError(
                "`get_gradients` works in graphs. Use `tf.GradientTape` when executing eagerly."
            )
        params = _as_variables(params)
        gradients = tf.gradients(loss, params)
        missing = [checks.name_of(v) for g, v in zip(gradients, params) if g is None]
        if missing:
            raise ValueError(f"The loss does not depend on {missing}: their gradient is None.")
        return self._clipped(gradients, params)

    @tf.autograph.experimental.do_not_convert
    def get_updates(self, loss, params):
        """The update for the gradients of `loss`, as a list of one operation.

        Arguments and errors are those of `get_gradients`.
        """
        params = _as_variables(params)
        if not tf.executing_eagerly():
            gradients = tf.gradients(loss, params)
            missing = [checks.name_of(v) for g, v in zip(gradients, params) if g is None]
            if missing:
                raise ValueError(f"The loss does not depend on {missing}: their gradient is None.")
        else:
            raise RuntimeError("`get_updates` works in graphs. Use `minimize` instead.")
        if not _keras.keeps_order():
            return [self.apply_gradients(zip(gradients, params))]
        graph = tf.compat.v1.get_default_graph()
        before = len(graph.get_operations())
        self.apply_gradients(zip(gradients, params))
        return [tf.group(*graph.get_operations()[before:])]

    def add_weight(
        self,
        name,
        shape,
        dtype=None,
        initializer="zeros",
        trainable=None,
        synchronization=tf.VariableSynchronization.AUTO,
        aggregation=tf.VariableAggregation.NONE,
    ):
        """Adds an optimizer variable that belongs to no variable of the model.

        Args:
            name: name of the variable.
            shape: tuple of integers.
            dtype: dtype or its name; default: `keras.config.floatx()`.
            initializer: a Keras initializer, its name, or a callable (shape, dtype) -> tensor.
            trainable, synchronization: accepted for compatibility; an optimizer variable is never
                trainable, and its synchronization follows from its aggregation.
            aggregation: a `tf.VariableAggregation`.

        Raises:
            ValueError: bad shape or dtype.
        """
        try:
            shape = tuple(int(size) for size in tf.TensorShape(shape))
        except (TypeError, ValueError):
            raise ValueError(
                f"The shape of an optimizer variable must be fully defined. Received: {shape!r}"
            ) from None
        if dtype is not None:
            try:
                dtype = tf.as_dtype(dtype).name
            except TypeError:
                raise ValueError(f"Not a dtype: {dtype!r}") from None
        aggregation = tf.VariableAggregation(aggregation)
        return self._restored(self._new_variable(shape, initializer, dtype, name, aggregation))

    @property
    def iterations(self):
        """The number of updates. Before the first step, an int64 variable may be put in its place.

        Optimizers that share one count their steps together.
        """
        return super().iterations

    def __setattr__(self, name, value):
        if name == "iterations":  # before Keras would track it, whatever it is
            self._set_iterations(value)
        else:
            super().__setattr__(name, value)

    def _set_iterations(self, variable):
        if self.built:
            raise RuntimeError(
                f"`iterations` of {self.name!r} can be replaced by another variable only before "
                "the optimizer is built, that is before its first step. To set the number of "
                "steps, use `iterations.assign(...)`."
            )
        if not checks.is_variable(variable):
            raise TypeError(
                "`iterations` must be an int64 scalar variable. To set the number of steps, use "
                f"`iterations.assign(...)`. Received: {variable!r} of type "
                f"{type(variable).__name__}"
            )
        if tf.as_dtype(variable.dtype) != tf.int64 or variable.shape.rank != 0:
            raise ValueError(
                f"`iterations` must be an int64 scalar variable. {checks.name_of(variable)!r} has "
                f"dtype {tf.as_dtype(variable.dtype).name} and shape {tuple(variable.shape)}."
            )
        self._replace_iterations(self._as_own(variable))

    @property
    def lr(self):
        """Same as `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value):
        self.learning_rate = value


def _weights_and_tape(grad_loss, tape):
    """Weights of the loss and its tape, in the order of `tf.keras` before or after 2.11."""
    return (tape, grad_loss) if isinstance(grad_loss, tf.GradientTape) else (grad_loss, tape)


def _as_variables(values):
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    for value in values:
        if not checks.is_variable(value):
            raise ValueError(
                "`var_list` must hold `keras.Variable`s or `tf.Variable`s. "
                f"Received: {value!r} of type {type(value).__name__}"
            )
    return values
