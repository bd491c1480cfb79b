"""Runs a program over variables, with what is beside it, on one of the backends."""

import dataclasses

import tensorflow as tf

from tf_optim_ext.backends import native, replica
from tf_optim_ext.backends import tensorflow as tensorflow_backend
from tf_optim_ext.backends.beside import NOTHING
from tf_optim_ext.engine import route as routes
from tf_optim_ext.engine import sparse
from tf_optim_ext.rule import auxiliary


def run(program, targets, gradients, scalars, route, lazy, beside=NOTHING):
    """Runs a program over variables and their slots.

    Args:
        program: a `Program`.
        targets: the `Targets`.
        gradients: tensors, or `tf.IndexedSlices` as `sparse` prepares them.
        scalars: the `Scalars` of the step.
        route: the `Route` to take.
        lazy: whether rows without gradient are left alone; otherwise their gradient is zero.
        beside: a `Beside`; if it is not empty, no rows are left alone.
    """
    if beside is NOTHING or route.is_fused:
        _run_at_once(program, targets, gradients, scalars, route, lazy, beside)
    else:
        _run_in_turn(program, targets, gradients, scalars, route, lazy, beside)


def _run_at_once(program, targets, gradients, scalars, route, lazy, beside=NOTHING):
    if route.is_on_gpus:
        scalars.device = targets.device or scalars.device
        gradients = sparse.all_dense(gradients, targets.weights)
    if route.is_native:
        for group in targets.groups:
            of_group = [gradients[i] for i in group.members]
            of_scalars = scalars.subset(group.members)
            with tf.device(group.device):
                native.step(program, group, of_group, of_scalars, lazy, beside)
        return
    if not lazy:
        gradients = sparse.all_dense(gradients, targets.weights)
    step = tensorflow_backend.compiled_step if route.compiled else tensorflow_backend.step
    step(program, targets, gradients, scalars)


def _run_in_turn(program, targets, gradients, scalars, route, lazy, beside):
    """One program after the other."""
    others = iter(targets.alone)
    if beside.has_sums:
        sums = next(others)
        if beside.scale is not None:
            _run_alone(auxiliary.accumulate(), sums, gradients, scalars, beside.scale)
        gradients = [replica.read(v) for v in sums.weights]
    _run_at_once(program, targets.without_beside, gradients, scalars, route, lazy)
    if beside.momentum is not None:
        weights = [replica.read(v) for v in targets.weights]
        momentum = {"ema_momentum": beside.momentum}
        _run_alone(auxiliary.average(), next(others), weights, scalars, hyperparameters=momentum)
    if beside.has_sums:
        _run_alone(auxiliary.reset(), sums, gradients, scalars)


def _run_alone(program, targets, gradients, scalars, scale=1.0, hyperparameters=None):
    own = dataclasses.replace(
        scalars, gradient_scale=scale, hyperparameters=hyperparameters or {}, rounding=None
    )
    route = routes.choose(program, targets, gradients, True)
    _run_at_once(program, targets, gradients, own, route, True)
