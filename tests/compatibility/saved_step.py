"""A training step from a SavedModel, outside XLA and under it: `python saved_step.py FOLDER`.

Runs in a process of its own, from `test_inside_xla.py`, where nothing but the import of the package
has loaded the native libraries; prints a JSON object of the weights.
"""

import json
import sys

import tensorflow as tf

import tf_optim_ext  # noqa: F401

trainer = tf.saved_model.load(sys.argv[1])
outside = trainer.train(tf.ones(2))
inside = tf.function(lambda gradient: trainer.train(gradient), jit_compile=True)(tf.ones(2))
print(json.dumps({"outside": outside.numpy().tolist(), "inside": inside.numpy().tolist()}))
