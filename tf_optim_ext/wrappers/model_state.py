"""What else of a model a forward pass changes: moving statistics, random states, metrics."""

from tf_optim_ext import _keras
from tf_optim_ext.backends import replica


def read(model):
    """The values of all variables of a model that are not trained.

    That takes no time: until a variable is written to, the tensor has its buffer.

    Args:
        model: a `keras.Model`, a layer, a `tf.Module`; or None.

    Returns:
        List of pairs of a variable and its value.
    """
    if model is None:
        return []
    try:
        variables = list(model.non_trainable_variables)
    except ValueError:  # Keras 2, before the first call of a model
        return []
    for metric in getattr(model, "metrics", ()):
        variables += metric.variables
    unique = {id(v): v for v in map(_keras.tensorflow_variable, variables)}
    return [(variable, replica.read(variable)) for variable in unique.values()]


def assign(values):
    """Assigns what `read` returned."""
    for variable, value in values:
        replica.assign(variable, value)
