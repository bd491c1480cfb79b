"""The exponential moving average of the weights, `use_ema`."""

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.engine import sparse
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary


def momentum_in_step(optimizer, gradients, variables):
    """The momentum of the averages that a step updates in passing; None if there are none.

    An average is that of the weights after their constraint, and steps of some rows leave out the
    others.
    """
    if not optimizer.use_ema:
        return None
    if optimizer.sparse != "exact" and _have_rows(gradients):
        return None
    if any(variable.constraint is not None for variable in variables):
        return None
    return optimizer._current_value("ema_momentum")


def update(optimizer, gradients, variables, in_step):
    """Brings the averages nearer to the weights, and overwrites these if that is due.

    Args:
        optimizer: the optimizer, with the slot "average".
        gradients: the gradients of the update before, which tell rows that moved.
        variables: list of as many variables.
        in_step: whether the step did this for `variables`.
    """
    pairs = [
        (average, variable)
        for average, variable in zip(optimizer._averages, optimizer._optimized)
        if average is not None
    ]
    keys = {optimizer._key_of(v) for v in variables} if in_step else set()
    others = [(a, v) for a, v in pairs if optimizer._key_of(v) not in keys]
    if others:
        _update_apart(optimizer, gradients, variables, others)
    frequency = optimizer.ema_overwrite_frequency
    if frequency:
        cond(
            tf.equal((optimizer.iterations + 1) % frequency, 0),
            lambda: [replica.assign(v, replica.read(average)) for average, v in pairs],
        )


def _update_apart(optimizer, gradients, variables, pairs):
    averages = [average for average, _ in pairs]
    by_key = {optimizer._key_of(v): g for g, v in zip(gradients, variables)}
    gradients = [by_key.get(optimizer._key_of(v)) for _, v in pairs]

    def of_all():
        optimizer._run(auxiliary.average(), averages, [replica.read(v) for _, v in pairs])

    def of_rows():
        values = [
            sparse.rows_of(v, g) if isinstance(g, tf.IndexedSlices) else replica.read(v)
            for g, (_, v) in zip(gradients, pairs)
        ]
        optimizer._run(auxiliary.average(), averages, values, lazy=True)

    if optimizer.sparse == "lazy" and _have_rows(gradients):
        cond(tf.equal(optimizer._update_count(), 0), of_all, of_rows)
    else:
        of_all()


def _have_rows(gradients):
    return any(isinstance(g, tf.IndexedSlices) for g in gradients)
