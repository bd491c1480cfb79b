"""Whether steps come to what the references of the tests say, in float64 NumPy."""

import sys
from collections.abc import Sequence

import numpy as np

from benchmarks import ROOT, arguments

sys.path.append(str(ROOT / "tests"))  # at the end: nothing there shall hide anything
import references

Array = np.ndarray
Gradient = Array | tuple[Array, Array]  # a sparse one: ids, and as many rows
# Relative to the whole change of the weights. Libraries add epsilon at different places, which is
# not what the check is for.
TOLERANCE = 2e-3


def weights_after(
    optimizer: str,
    options: tuple[str, ...],
    weights: Sequence[Array],
    gradients: Sequence[Array],
    steps: int,
) -> list[Array]:
    """The weights, or their averages with "ema", after some steps with the same gradients."""
    given, reference = arguments.of(optimizer), references.find(optimizer.lower())
    if "clip" in options:
        norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in gradients))
        gradients = [g * min(1.0, arguments.NORM / norm) for g in gradients]
    found = []
    for weight, gradient in zip(weights, gradients, strict=True):
        no_decay = {"weight_decay": 0.0} if "mask" in options and weight.ndim < 2 else {}
        path = [w for w, _ in reference(weight, [gradient] * steps, **{**given, **no_decay})]
        average = path[0]
        for w in path[1:]:
            average = average + (1 - arguments.EMA_MOMENTUM) * (w - average)
        found.append(average if "ema" in options else path[-1])
    return found


def table_after(sparse: str, table: Array, gradients: Sequence[Gradient]) -> Array:
    """An embedding table after a step of Adam with each of some sparse gradients.

    The reference of "exact" is Adam's; rows without a gradient are what the others leave alone.
    """
    given = arguments.of("Adam")
    rate, beta_1, beta_2 = (given[name] for name in ("learning_rate", "beta_1", "beta_2"))
    dense = [np.zeros(table.shape) for _ in gradients]
    for g, (ids, values) in zip(dense, gradients, strict=True):
        np.add.at(g, ids, values)
    if sparse == "exact":
        *_, (found, _) = references.adam(table, dense, **given)
        return found
    w, m, v = table.astype(np.float64), np.zeros(table.shape), np.zeros(table.shape)
    last = np.zeros((len(w), 1))
    for t, (g, (ids, _)) in enumerate(zip(dense, gradients, strict=True), start=1):
        at = np.unique(ids)
        square = np.square(g[at])
        if sparse == "row_wise":
            square = np.mean(square, axis=1, keepdims=True)
        passed = t - last[at] if sparse == "catch_up" else 1
        m[at] = beta_1**passed * m[at] + (1 - beta_1) * g[at]
        v[at] = beta_2**passed * v[at] + (1 - beta_2) * square
        last[at] = t
        step = rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        w[at] -= step * m[at] / (np.sqrt(v[at]) + given["epsilon"])
    return w


def what_is_wrong(
    before: Sequence[Array], after: Sequence[Array], wanted: Sequence[Array]
) -> str | None:
    """How far weights are from those that are wanted, None if they are not."""
    # NumPy's maximum, as NaN in one variable must not be lost.
    worst = np.max(
        [
            np.max(np.abs(found - right)) / np.max(np.abs(right - start))
            for start, found, right in zip(before, after, wanted, strict=True)
        ]
    )
    return None if worst <= TOLERANCE else f"void: its steps are off by {100 * worst:.2g} %"
