"""Tables, sparse gradients and what Adam makes of them. Imports neither TensorFlow nor PyTorch."""

import zlib
from dataclasses import dataclass

import numpy as np

Gradient = tuple[np.ndarray, np.ndarray]  # ids (int64) and as many rows (float32)

GRADIENTS = 8  # in turn, so that the rows of a step are not those of the step before
CHECK_RATE = 0.1  # large, so that a wrong rule is far off after a few steps
TOLERANCE = 1e-5
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


@dataclass(frozen=True)
class Case:
    """A table and the gradients that it gets."""

    table_rows: int
    width: int
    rows: int  # of a gradient, repeated ones included
    repeats: int  # percent of the ids that are in the gradient already

    @property
    def name(self) -> str:
        return f"{self.table}, {self.rows:,} rows, {self.repeats} % repeated"

    @property
    def table(self) -> str:
        return f"{self.table_rows:,} x {self.width}"

    @property
    def distinct(self) -> int:
        return max(1, self.rows - self.rows * self.repeats // 100)

    @property
    def table_bytes(self) -> int:
        return 4 * self.table_rows * self.width

    @property
    def gradient_bytes(self) -> int:
        return 4 * self.rows * self.width


CHECKED = Case(40, 6, 12, 50)


def gradients(case: Case, seed: int) -> list[Gradient]:
    """Some gradients, the same for the same seed in every process."""
    numbers = np.random.default_rng(seed)
    return [_gradient(case, numbers) for _ in range(GRADIENTS)]


def _gradient(case: Case, numbers: np.random.Generator) -> Gradient:
    distinct = numbers.choice(case.table_rows, case.distinct, replace=False)
    repeated = numbers.choice(distinct, case.rows - case.distinct)
    ids = numbers.permutation(np.concatenate([distinct, repeated])).astype(np.int64)
    values = 1e-2 * numbers.standard_normal((case.rows, case.width), dtype=np.float32)
    # Squares of very small numbers would be denormal, and denormals are slow everywhere.
    return ids, values + np.copysign(np.float32(1e-4), values)


def checksum(given: list[Gradient]) -> int:
    found = 0
    for ids, values in given:
        found = zlib.crc32(values.tobytes(), zlib.crc32(ids.tobytes(), found))
    return found


def table(case: Case, seed: int) -> np.ndarray:
    """Weights as Keras' `Embedding` begins with."""
    numbers = np.random.default_rng(seed)
    found = numbers.random((case.table_rows, case.width), dtype=np.float32)
    found -= 0.5
    found *= 0.1
    return found


def small_table(seed: int) -> np.ndarray:
    shape = (CHECKED.table_rows, CHECKED.width)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def adam(kind: str, table: np.ndarray, steps: list[Gradient]) -> np.ndarray:
    """The table after some steps in float64.

    Args:
        kind: "exact", "lazy", "catch_up", or "row_wise", which is lazy.
        table: what to start with.
        steps: the gradients.
    """
    w = table.astype(np.float64)
    m, v, last = np.zeros_like(w), np.zeros_like(w), np.zeros((len(w), 1))
    for t, (ids, values) in enumerate(steps, start=1):
        g = np.zeros_like(w)
        np.add.at(g, ids, values)
        at = slice(None) if kind == "exact" else np.unique(ids)
        square = np.mean(g[at] ** 2, axis=1, keepdims=True) if kind == "row_wise" else g[at] ** 2
        passed = t - last[at] if kind == "catch_up" else 1
        m[at] = BETA_1**passed * m[at] + (1 - BETA_1) * g[at]
        v[at] = BETA_2**passed * v[at] + (1 - BETA_2) * square
        last[at] = t
        rate = CHECK_RATE * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        w[at] -= rate * m[at] / (np.sqrt(v[at]) + EPSILON)
    return w


def what_is_wrong(kind: str, found: np.ndarray, seed: int) -> str | None:
    """How the table of `small_table` is off after the gradients of `CHECKED`, None if it is not."""
    expected = adam(kind, small_table(seed), gradients(CHECKED, seed))
    error = np.max(np.abs(found - expected))
    return None if error <= TOLERANCE else f"void: off by {error:.2g} on a small table"
