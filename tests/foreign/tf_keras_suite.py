"""The tests of tf_keras' legacy `OptimizerV2`, with our classes in the place of tf_keras'.

The wheel of tf_keras has no tests: `TF_KERAS_SOURCE` says where a checkout of its repository is
(github.com/keras-team/tf-keras).
"""

import os
import pathlib

from foreign.running import replace_everywhere, rewritten

VARIABLE = "TF_KERAS_SOURCE"
FOLDER = "tf_keras/optimizers/legacy"
NAMES = ("Adadelta", "Adagrad", "Adam", "Adamax", "Ftrl", "Nadam", "RMSprop", "SGD")
SCHEDULES = (
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
)
# Modules are called otherwise in the wheel. Complex weights have tests of their own, not all.
REWRITTEN = [
    (r"^(\s*from|\s*import) tf_keras\.", r"\1 tf_keras.src."),
    ("from tf_keras import", "from tf_keras.src import"),
    (r", tf\.complex64, tf\.complex128\]", "]"),
    (r"\+= \[tf\.complex64, tf\.complex128\]", "+= []"),
]


def install(modules):
    """Puts our classes where the tests find theirs; returns the files of the modules."""
    import keras
    import tf_keras
    import tf_keras.src.testing_infra.test_combinations
    import tf_keras.src.testing_infra.test_utils

    import tf_optim_ext

    theirs, schedules = tf_keras.optimizers.legacy, tf_keras.optimizers.schedules
    pairs = [(getattr(theirs, name), getattr(tf_optim_ext, name)) for name in NAMES]
    pairs.append((theirs.Optimizer, tf_optim_ext.Optimizer))
    # TensorFlow 2.21 has the schedules of Keras 3.
    ours = keras.optimizers.schedules
    pairs += [(getattr(schedules, name), getattr(ours, name)) for name in SCHEDULES]
    replace_everywhere(pairs, "tf_keras")
    # With these, tests compute what they expect.
    tf_optim_ext.Optimizer._get_hyper = lambda self, name, dtype=None: getattr(self, name)
    folder = pathlib.Path(os.environ[VARIABLE]) / FOLDER
    return [rewritten(folder / f"{module}.py", REWRITTEN) for module in modules]
