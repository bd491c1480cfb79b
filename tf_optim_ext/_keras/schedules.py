"""What the range test and the schedules need of either generation of Keras."""

import contextlib
import sys


def _generations():
    return [sys.modules[name] for name in ("keras", "tf_keras") if name in sys.modules]


def is_schedule(value):
    """Whether a value is a `LearningRateSchedule`, of either generation of Keras."""
    schedules = (keras.optimizers.schedules for keras in _generations())
    return isinstance(value, tuple(module.LearningRateSchedule for module in schedules))


def generation_of(model):
    """The module, `keras` or `tf_keras`, that a model is of; None: it is no model."""
    return next((keras for keras in _generations() if isinstance(model, keras.Model)), None)


@contextlib.contextmanager
def rate_replaced(optimizer, variable):
    """Context in which an optimizer, also one of Keras' own, has a variable as its learning rate.

    Functions that were traced outside of it do not see the variable.
    """
    before = optimizer._learning_rate
    object.__setattr__(optimizer, "_learning_rate", variable)  # Keras would track it, for good
    try:
        yield
    finally:
        object.__setattr__(optimizer, "_learning_rate", before)


def hidden_generators(model):
    """Variables with the states of random generators, which Keras 2 hides in layers."""
    submodules = getattr(model, "submodules", ())  # Keras 3 has none, and hides none
    found = (getattr(layer, "_random_generator", None) for layer in submodules)
    generators = (getattr(each, "_generator", None) for each in found)
    return [each.state for each in generators if each is not None]
