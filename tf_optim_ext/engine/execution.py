"""Runs a program over variables, on one of the backends."""

import tensorflow as tf

from tf_optim_ext.backends import native
from tf_optim_ext.backends import tensorflow as tensorflow_backend
from tf_optim_ext.engine import sparse


def run(program, targets, gradients, scalars, route, lazy):
    """Runs a program over variables and their slots.

    Args:
        program: a `Program`.
        targets: the `Targets`.
        gradients: tensors, or `tf.IndexedSlices` as `sparse` prepares them.
        scalars: the `Scalars` of the step.
        route: the `Route` to take.
        lazy: whether rows without gradient are left alone; otherwise their gradient is zero.
    """
    if route.is_on_gpus:
        scalars.device = targets.device or scalars.device
        gradients = sparse.all_dense(gradients, targets.weights)
    if route.is_native:
        for group in targets.groups:
            of_group = [gradients[i] for i in group.members]
            with tf.device(group.device):
                native.step(program, group, of_group, scalars.subset(group.members), lazy)
        return
    if not lazy:
        gradients = sparse.all_dense(gradients, targets.weights)
    step = tensorflow_backend.compiled_step if route.compiled else tensorflow_backend.step
    step(program, targets, gradients, scalars)
