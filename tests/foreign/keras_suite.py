"""Keras' own tests, which are part of its wheel, with our classes in the place of Keras'."""

import importlib.util
import sys
import types

import pytest
from foreign.running import replace_everywhere

# With names of Keras 3.15. `Adafactor` and `Muon` have no counterpart here.
NAMES = (
    "SGD",
    "RMSprop",
    "Adam",
    "AdamW",
    "Adadelta",
    "Adagrad",
    "Adamax",
    "Nadam",
    "Ftrl",
    "Lion",
    "ScheduleFreeAdamW",
)


def install(modules):
    """Puts our classes where Keras' tests find theirs; returns the files of the modules."""
    import keras
    import keras.src.testing

    import tf_optim_ext

    pairs = [(getattr(keras.optimizers, name), getattr(tf_optim_ext, name)) for name in NAMES]
    pairs.append((keras.src.optimizers.lamb.Lamb, tf_optim_ext.Lamb))
    sys.modules["conftest"] = conftest = types.ModuleType("conftest")
    conftest.skip_if_backend = lambda backend, reason: pytest.mark.skipif(
        keras.backend.backend() == backend, reason=reason
    )
    if importlib.util.find_spec("jax") is None:  # some modules import it for tests with JAX only
        sys.modules["jax"] = types.ModuleType("jax")
    replace_everywhere(pairs, "keras")
    replaced = dict(pairs)
    optimizers = keras.src.optimizers
    # For names of optimizers as texts, and what is loaded from files.
    for name, cls in list(optimizers.ALL_OBJECTS_DICT.items()):
        optimizers.ALL_OBJECTS_DICT[name] = replaced.get(cls, cls)
    optimizers.ALL_OBJECTS = set(optimizers.ALL_OBJECTS_DICT.values())
    return [importlib.util.find_spec(module).origin for module in modules]
