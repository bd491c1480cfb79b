"""Runs a program over variables, on one of the backends."""

import tensorflow as tf

from tf_optim_ext.backends import native
from tf_optim_ext.backends import tensorflow as tensorflow_backend
from tf_optim_ext.engine import sparse


def run(program, on, gradients, scalars, route, lazy):
    """Runs a program over variables and their slots.

    Args:
        program: a `Program`.
        on: the `Targets`.
        gradients: tensors, or `tf.IndexedSlices` as `sparse` prepares them.
        scalars: the `Scalars` of the step.
        route: the `Route` to take.
        lazy: whether rows without gradient are left alone; otherwise their gradient is zero.
    """
    if route.is_native:
        for group in on.groups:
            own = [gradients[i] for i in group.members]
            with tf.device(group.device):
                native.step(program, group, own, scalars.subset(group.members), lazy)
        return
    if not lazy:
        gradients = sparse.all_dense(gradients, on.weights)
    step = tensorflow_backend.compiled_step if route.compiled else tensorflow_backend.step
    step(program, on, gradients, scalars)
