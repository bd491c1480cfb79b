"""Accumulation: the mean gradient of several calls makes one update."""

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.engine import sparse
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary


def step(optimizer, gradients, variables, scale):
    """Adds gradients to the sums; updates with their mean if this is the last of some calls.

    Args:
        optimizer: the optimizer, with the slots "gradient_accumulator" and "accumulated_rows".
        gradients: list of prepared gradients.
        variables: list of as many variables.
        scale: factor of the gradients.
    """
    sums = [optimizer.get_slot(v, "gradient_accumulator") for v in variables]
    by_rows, count = optimizer.sparse != "exact", optimizer.gradient_accumulation_steps

    def accumulate():
        optimizer._run(auxiliary.accumulate(), sums, gradients, scale, lazy=True)
        if by_rows:
            for gradient, variable in zip(gradients, variables):
                _note_rows(gradient, optimizer.get_slot(variable, "accumulated_rows"))

    def update():
        accumulate()
        means = [
            _rows(optimizer.get_slot(v, "accumulated_rows"), total)
            if by_rows and isinstance(g, tf.IndexedSlices)
            else replica.read(total)
            for total, g, v in zip(sums, gradients, variables)
        ]
        optimizer._update(means, variables, 1.0 / count)
        optimizer._run(auxiliary.reset(), sums, means, lazy=True)

    is_last = tf.equal((replica.read(optimizer._counter) + 1) % count, 0)
    cond(is_last, update, accumulate)


def _note_rows(gradient, rows):
    """Remembers which rows the accumulated gradients have."""
    if isinstance(gradient, tf.IndexedSlices):
        sparse.set_flags(rows, gradient)
    else:
        replica.assign(rows, tf.ones(rows.shape))


def _rows(rows, total):
    """The rows of a sum that have a gradient, which are forgotten."""
    gradient = sparse.flagged(rows, total)
    replica.assign(rows, tf.zeros(rows.shape))
    return gradient
