"""Accumulation: the mean gradient of several calls makes one update."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_optim_ext.backends import replica
from tf_optim_ext.backends.beside import SUMS
from tf_optim_ext.engine import sparse
from tf_optim_ext.engine.control import cond
from tf_optim_ext.rule import auxiliary

ROWS = "accumulated_rows"


@dataclasses.dataclass(frozen=True)
class Sums:
    """The gradients of some calls and those of the current one, as yet apart.

    Attributes:
        optimizer: the optimizer, with the slots for the sums.
        gradients: list of the prepared gradients of the current call.
        variables: list of as many variables.
        scale: factor of these gradients.
    """

    optimizer: Any
    gradients: list
    variables: list
    scale: Any

    def add(self):
        """Adds the gradients to the sums, before or without an update."""
        self.optimizer._run(
            auxiliary.accumulate(), self._slots(), self.gradients, self.scale, lazy=True
        )

    def reset(self, values):
        """Clears the sums, or those of their rows that `values` has."""
        self.optimizer._run(auxiliary.reset(), self._slots(), values, lazy=True)

    def completed(self):
        """Adds the gradients; returns the sums."""
        self.add()
        return self.values()

    def values(self):
        return [replica.read(slot) for slot in self._slots()]

    def _slots(self):
        return [self.optimizer.get_slot(v, SUMS) for v in self.variables]


def step(optimizer, gradients, variables, scale):
    """Adds gradients to the sums; updates with their mean if this is the last of some calls.

    Args:
        optimizer: the optimizer.
        gradients: list of prepared gradients.
        variables: list of as many variables.
        scale: factor of the gradients.
    """
    by_rows, count = optimizer.sparse != "exact", optimizer.gradient_accumulation_steps
    sums = Sums(optimizer, gradients, variables, scale)

    def accumulate():
        sums.add()
        if by_rows:
            for gradient, variable in zip(gradients, variables):
                _note_rows(gradient, optimizer.get_slot(variable, ROWS))

    def update():
        if not by_rows and not optimizer._changes_gradients:
            optimizer._update(gradients, variables, 1.0 / count, sums)
            return
        accumulate()
        values = sums.values()
        if by_rows:
            values = [
                _rows(optimizer.get_slot(v, ROWS), optimizer.get_slot(v, SUMS))
                if isinstance(g, tf.IndexedSlices)
                else value
                for value, g, v in zip(values, gradients, variables)
            ]
        were_rows = [isinstance(g, tf.IndexedSlices) for g in gradients]
        optimizer._update(values, variables, 1.0 / count, were_rows=were_rows)
        sums.reset(values)

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
