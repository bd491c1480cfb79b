"""Branches of a step."""

import tensorflow as tf


def cond(condition, then, otherwise=lambda: None):
    """`tf.cond` for branches without results; a plain branch when executing eagerly."""
    if tf.executing_eagerly():
        (then if condition else otherwise)()
    else:
        tf.cond(condition, lambda: (then(), 0)[1], lambda: (otherwise(), 0)[1])
