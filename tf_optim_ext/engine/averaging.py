"""The exponential moving average of the weights, `use_ema`."""

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.engine import sparse
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary


def update(optimizer, gradients, variables):
    """Brings the averages nearer to the weights, and overwrites these if that is due.

    Args:
        optimizer: the optimizer, with the slot "average".
        gradients: the gradients of the update before, which tell rows that moved.
        variables: list of as many variables.
    """
    pairs = [
        (average, variable)
        for average, variable in zip(optimizer._averages, optimizer._optimized)
        if average is not None
    ]
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

    if optimizer.sparse == "lazy" and any(isinstance(g, tf.IndexedSlices) for g in gradients):
        cond(tf.equal(optimizer._update_count(), 0), of_all, of_rows)
    else:
        of_all()
    frequency = optimizer.ema_overwrite_frequency
    if frequency:
        cond(
            tf.equal((optimizer.iterations + 1) % frequency, 0),
            lambda: [replica.assign(v, replica.read(average)) for average, v in pairs],
        )
