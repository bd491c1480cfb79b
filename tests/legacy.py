"""The optimizers of TensorFlow 2.0, as tf_keras has them, without the warnings of its import."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tf_keras.optimizers import legacy

__all__ = ["legacy"]
