"""TensorFlow Addons' tests of optimizers, with our classes in the place of Addons'.

`TF_ADDONS_SOURCE` says where a checkout of its repository is (github.com/tensorflow/addons); it
cannot be imported itself, as it needs the Keras of earlier TensorFlow.
"""

import os
import pathlib
import sys
import types

from foreign.running import rewritten

VARIABLE = "TF_ADDONS_SOURCE"
FOLDER = "tensorflow_addons/optimizers/tests"
# Module of each name in Addons.
NAMES = {
    "AdaBelief": "adabelief",
    "AveragedOptimizerWrapper": "average_wrapper",
    "COCOB": "cocob",
    "ConditionalGradient": "conditional_gradient",
    "DecoupledWeightDecayExtension": "weight_decay_optimizers",
    "LAMB": "lamb",
    "LazyAdam": "lazy_adam",
    "Lookahead": "lookahead",
    "MovingAverage": "moving_average",
    "MultiOptimizer": "discriminative_layer_training",
    "NovoGrad": "novograd",
    "ProximalAdagrad": "proximal_adagrad",
    "RectifiedAdam": "rectified_adam",
    "SGDW": "weight_decay_optimizers",
    "SWA": "stochastic_weight_averaging",
    "Yogi": "yogi",
    "extend_with_decoupled_weight_decay": "weight_decay_optimizers",
}
# Optimizers here take `learning_rate` only and no `decay`; Keras 3 has no `legacy`, and its
# variables have no `read_value`.
REWRITTEN = [
    (r"((AdaBelief|NovoGrad|RectifiedAdam|ProximalAdagrad|SGD)\(\s*)lr=", r"\1learning_rate="),
    (r"(nesterov=True, momentum=0\.3), decay=0\.1", r"\1"),
    (r"keras\.optimizers\.legacy\.", "keras.optimizers."),
    (r"\.read_value\(\)", ".numpy()"),
]


def install(modules):
    """Makes a package of the name, and modules in it with our classes; returns files of tests."""
    import tensorflow as tf

    import tf_optim_ext

    root = pathlib.Path(os.environ[VARIABLE])
    os.environ["TF_ADDONS_PY_OPS"] = "1"
    package = _module("tensorflow_addons", root / "tensorflow_addons")
    package.optimizers = _module(
        "tensorflow_addons.optimizers", root / "tensorflow_addons" / "optimizers"
    )
    for name, where in NAMES.items():
        qualified = f"tensorflow_addons.optimizers.{where}"
        submodule = sys.modules.get(qualified) or _module(qualified)
        setattr(package.optimizers, where, submodule)
        for module in (package.optimizers, submodule):
            setattr(module, name, getattr(tf_optim_ext, name))
    extended = tf_optim_ext.extend_with_decoupled_weight_decay(tf_optim_ext.Adam)
    package.optimizers.AdamW = package.optimizers.weight_decay_optimizers.AdamW = extended
    package.optimizers.KerasLegacyOptimizer = tf_optim_ext.Optimizer
    # What tests extend.
    tf.keras.optimizers.SGD, tf.keras.optimizers.Adam = tf_optim_ext.SGD, tf_optim_ext.Adam
    tf_optim_ext.Optimizer._get_hyper = _get_hyper
    pathlib.Path("conftest.py").write_text("from tensorflow_addons.conftest import *")
    return [rewritten(root / FOLDER / f"{module}.py", REWRITTEN) for module in modules]


def _get_hyper(self, name, dtype=None):
    """With this, tests compute what they expect."""
    return getattr(self, name if hasattr(self, name) else name.replace("_", ""))


def _module(name, folder=None):
    sys.modules[name] = module = types.ModuleType(name)
    if folder:
        module.__path__ = [str(folder)]
    return module
