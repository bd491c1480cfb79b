"""Values of hyperparameters: numbers, schedules, callables, variables; read anew in every step."""

import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.backends import replica
from tf_optim_ext.engine import graphs


def checked(owner, name, value, interval):
    """Returns a hyperparameter as it is kept.

    Args:
        owner: name of the optimizer's class.
        name: name of the hyperparameter.
        value: a number, which is checked; a `LearningRateSchedule`, a callable without arguments or
            a scalar variable, whose values are not.
        interval: the numbers that are allowed, such as `"[0, 1)"`; or `"boolean"`.

    Raises:
        ValueError: it is none of these, or a number outside the interval.
    """
    if checks.is_variable(value):
        dtype = tf.as_dtype(value.dtype)
        if tuple(value.shape) or not dtype.is_floating:
            raise ValueError(
                f"{owner}: a variable for `{name}` must be a scalar of a floating-point dtype. "
                f"Received: shape {tuple(value.shape)}, dtype {dtype.name}"
            )
        return value
    if callable(value):
        return value
    if interval == "boolean":
        return checks.boolean(owner, name, value)
    return checks.number(owner, name, value, interval)


def is_number(value):
    """Whether a checked hyperparameter is a number."""
    return isinstance(value, (float, bool))


def are_equal(value, other):
    """Whether both are the same number."""
    return is_number(value) and is_number(other) and value == other


def current(value, iterations):
    """What a hyperparameter is in this step, a Python number or a tensor.

    Args:
        value: as of `checked`.
        iterations: the variable that a schedule gets.
    """
    if _keras.is_schedule(value):
        value = value(iterations)
    elif callable(value):
        value = value()
    return replica.read(value) if checks.is_variable(value) else value


def is_scalar(value):
    """Whether what `current` returned is a tensor."""
    return tf.is_tensor(value) and value.shape.rank == 0


def as_tensor(value, dtype):
    """What `current` returned, as a tensor; a cast of a number would go by way of float32."""
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def for_config(value, keras):
    """A checked hyperparameter, or None, as JSON can hold it; of a variable its current value.

    Args:
        value: as of `checked`.
        keras: the module, `keras` or `tf_keras`, whose format it gets.
    """
    if checks.is_variable(value):
        graphs.check_has_values(
            "`get_config`", "make another optimizer with the arguments that this one got"
        )
        return float(_keras.tensorflow_variable(value).numpy())
    return keras.saving.serialize_keras_object(value) if callable(value) else value


class VariableRate:
    """A user's variable as a learning rate: Keras takes callables, and copies variables."""

    def __init__(self, variable):
        self.variable = variable

    def __call__(self):
        return replica.read(self.variable)


class TracedNumbers:
    """What traced functions read, so that a number that is set later acts in them.

    One variable holds all numbers of an optimizer. It is not part of the state: numbers are saved
    with the configuration.
    """

    def __init__(self, names):
        self._positions = {name: i for i, name in enumerate(names)}
        self.variable = None
        self.are_in_use = False

    def create(self, values, strategy, beside):
        """Makes the variable, for eager code and the functions that it calls.

        Before any function is traced: those that create variables are traced twice, and only in
        their first call.

        Args:
            values: dict with the values of all names.
            strategy: the distribution strategy of the optimizer.
            beside: a variable of the optimizer, on whose devices it is.
        """
        numbers = [values[name] for name in self._positions]
        numbers = [float(x) if is_number(x) else 0.0 for x in numbers]
        with tf.init_scope():
            if tf.executing_eagerly():
                with strategy.extended.colocate_vars_with(beside):
                    self.variable = tf.Variable(
                        numbers, False, dtype=tf.float64, name="hyperparameters"
                    )

    def read(self, names):
        """Dict from some of the names to scalar tensors, inside a function."""
        self.are_in_use = True
        array = replica.read(self.variable)
        return {name: array[self._positions[name]] for name in names}

    def set(self, name, number, strategy):
        """Hands a number to the functions that were traced before."""
        if self.variable is not None:
            index, value = self._positions[name], tf.constant(float(number), tf.float64)
            for local in strategy.experimental_local_results(self.variable):
                tf.raw_ops.ResourceScatterUpdate(
                    resource=local.handle, indices=index, updates=value
                )
