"""The rows of the table: our optimizer on each of its routes, and its peers."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import _harness
import keras
import numpy as np
import tensorflow as tf
from shapes import Shape

import tf_optim_ext

OPTIMIZERS = ("AdamW", "Adam", "Lion", "SGD", "Lamb")
PEERS = ("keras", "tf_keras")
# tf_keras' legacy classes have no AdamW, Lion or Lamb; Adam moves as many bytes as AdamW.
LEGACY = {"AdamW": "Adam", "Adam": "Adam", "SGD": "SGD"}


@dataclass(frozen=True)
class Spec:
    """One row before it is built."""

    key: str
    label: str
    family: str  # ours, keras, tf_keras or limit
    mode: str = ""  # eager, function or xla
    portable: bool = False
    expected_route: str = ""

    @property
    def slow(self) -> bool:
        """Whether it takes seconds to compile, or about as long for a single step."""
        return self.mode == "xla" or (self.mode == "eager" and self.family != "ours")


ANCHOR = Spec("ours_eager", "tf_optim_ext, eager", "ours", "eager", False, "native")
LIMIT = Spec("limit", "memory limit (plain loop)", "limit")
OURS = (
    ANCHOR,
    Spec("ours_function", "tf_optim_ext, tf.function", "ours", "function", False, "native"),
    Spec(
        "ours_portable", "tf_optim_ext, portable()", "ours", "function", True, "tensorflow: inside"
    ),
    Spec("ours_xla", "tf_optim_ext, XLA", "ours", "xla", False, "tensorflow: inside XLA"),
)
KERAS = (
    Spec("keras_eager", "Keras, eager", "keras", "eager"),
    Spec("keras_function", "Keras, tf.function", "keras", "function"),
    Spec("keras_xla", "Keras, XLA", "keras", "xla"),
)


class Work:
    """Weights and gradients of one model, shared by all rows; slots are each row's own."""

    def __init__(self, shapes: list[Shape], seed: int) -> None:
        numbers = np.random.default_rng(seed)
        self.variables = [
            keras.Variable(_random(numbers, s, 2e-2), dtype="float32") for s in shapes
        ]
        self.gradients = [tf.constant(_random(numbers, s, 1e-2)) for s in shapes]

    @property
    def weights(self) -> int:
        return sum(int(np.prod(v.shape)) for v in self.variables)

    @property
    def largest(self) -> int:
        return max(int(np.prod(v.shape)) for v in self.variables)


def _random(numbers: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    values = scale * numbers.standard_normal(shape, dtype=np.float32)
    # Squares of very small numbers would be denormal, and denormals are slow everywhere.
    return values + np.copysign(np.float32(1e-4), values)


class Row:
    """A row of the table: what is timed, where it ran, and what went wrong if something did."""

    def __init__(self, spec: Spec, label: str | None = None) -> None:
        self.spec = spec
        self.label = label or spec.label
        self.timed: _harness.Timed | None = None
        self.optimizer: Any = None
        self.route: str | None = None
        self.traces: list[dict[str, Any]] = []
        self.peak_growth: int | None = None
        self.note = ""
        self.failed = False

    def fail(self, reason: str) -> None:
        self.timed, self.optimizer, self.failed = None, None, True
        self.note = reason

    def take_route(self) -> None:
        """Keeps the route of what was traced; a row of ours without one is void."""
        if self.spec.family != "ours":
            self.route = self.spec.family if self.spec.family != "limit" else "native loop"
            return
        self.route = self.optimizer.route or None
        if self.route is None:
            self.fail("void: the optimizer names no route")
        elif not self.route.startswith(self.spec.expected_route):
            self.note = f"expected: {self.spec.expected_route}"


def legacy_specs(optimizer: str) -> tuple[Spec, ...]:
    name = LEGACY.get(optimizer)
    what = f"tf_keras legacy {name or optimizer}"
    return tuple(
        Spec(f"tf_keras_{mode}", f"{what}, {shown}", "tf_keras", mode)
        for mode, shown in (("eager", "eager"), ("function", "tf.function"))
    )


def wanted_specs(optimizer: str, peers: Iterable[str], without_slow: bool) -> list[Spec]:
    """Every row that was asked for but the memory limit, the anchor first."""
    specs = list(OURS)
    if "keras" in peers:
        specs += KERAS
    if "tf_keras" in peers:
        specs += legacy_specs(optimizer)
    return [spec for spec in specs if not (without_slow and spec.slow)]


def groups(specs: list[Spec], row_bytes: int, budget: int) -> list[list[Spec]]:
    """Splits the rows so that the slots of a group fit the budget; the anchor is in each."""
    others = [spec for spec in specs if spec is not ANCHOR]
    room = max(1, budget // max(1, row_bytes) - 1)
    return [[ANCHOR, *others[i : i + room]] for i in range(0, len(others), room)]


def slots_per_weight(optimizer: str) -> int:
    """Counted on Keras' class, so that all rows are judged by the same number of bytes."""
    probe = getattr(keras.optimizers, optimizer)()
    shape = (2, 3)
    probe.build([keras.Variable(np.zeros(shape, np.float32))])
    return sum(tuple(v.shape) == shape for v in probe.variables)


def build(spec: Spec, optimizer: str, work: Work, slots: int, threads: int, traces: int) -> Row:
    """Makes a row and traces it `traces` times."""
    row = Row(spec)
    if spec.family == "limit":
        _build_limit(row, work.weights, slots, threads)
    elif spec.family == "tf_keras":
        _build_legacy(row, optimizer, work, traces)
    else:
        owner = tf_optim_ext if spec.family == "ours" else keras.optimizers
        _build_keras_3(row, getattr(owner, optimizer)(), work, traces)
    return row


def _build_keras_3(row: Row, optimizer: Any, work: Work, traces: int) -> None:
    optimizer.build(work.variables)

    def apply() -> None:
        optimizer.apply(work.gradients, work.variables)

    row.optimizer = optimizer
    row.timed = _harness.Timed(_traced(apply, row, traces), optimizer.iterations.numpy)


def _build_legacy(row: Row, optimizer: str, work: Work, traces: int) -> None:
    if importlib.util.find_spec("tf_keras") is None:
        row.fail("tf_keras not installed")
        return
    if optimizer not in LEGACY:
        row.fail(f"tf_keras has no legacy {optimizer}")
        return
    import tf_keras

    legacy = getattr(tf_keras.optimizers.legacy, LEGACY[optimizer])()
    pairs = list(zip(work.gradients, [v.value for v in work.variables], strict=True))

    def apply() -> None:
        legacy.apply_gradients(pairs)

    row.optimizer = legacy
    row.timed = _harness.Timed(_traced(apply, row, traces), legacy.iterations.numpy)
    if LEGACY[optimizer] != optimizer:
        row.note = f"{LEGACY[optimizer]}: there is no legacy {optimizer}"


def _build_limit(row: Row, weights: int, slots: int, threads: int) -> None:
    reason = tf_optim_ext.native.why_not()
    if reason is not None:
        row.fail(f"no native library: {reason}")
        return
    # Tiny, so that adding it in every step leaves the sums far from overflow.
    read = np.full(weights, 1e-6, np.float32)
    written = [np.ones(weights, np.float32) for _ in range(1 + slots)]
    row.timed = _harness.Timed(lambda: tf_optim_ext.native.stream(written, [read], threads))


def _traced(apply: Callable[[], None], row: Row, traces: int) -> Callable[[], None]:
    """The step as the row runs it; the route is decided by where a function is traced."""
    if row.spec.mode == "eager":
        return apply
    with tf_optim_ext.portable() if row.spec.portable else contextlib.nullcontext():
        for _ in range(traces):
            step = tf.function(apply, jit_compile=True if row.spec.mode == "xla" else None)
            row.traces.append(_harness.trace(step))
    return step
