"""The rows of a table: kinds of Adam, ours and of others, that update an embedding."""

import dataclasses
import itertools
import json
import math
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _embedding_cases as cases
import _harness
import _rows
import keras
import tensorflow as tf

import tf_optim_ext

PEERS = ("keras", "tf_keras", "torch")
OURS: dict[str, dict[str, Any]] = {
    "lazy": {"sparse": "lazy"},
    "exact": {"sparse": "exact"},
    "catch_up": {"sparse": "catch_up"},
    "row_wise": {"sparse": "lazy", "row_wise": True},
}
# Most memory of each kind in tables: slots, and what an eager step of a peer takes for a while.
# PyTorch has a table of its own.
MEMORY = {**dict.fromkeys(OURS, 2), "keras": 2 + 5, "tf_keras": 2 + 8, "torch": 1 + 2}
WORKER = Path(__file__).with_name("_embedding_torch.py")


@dataclass(frozen=True)
class Spec(_rows.Spec):
    """One row before it is built; those of a kind share an optimizer and its slots."""

    kind: str = ""


def _pair(kind: str, label: str, family: str, expected_route: str = "") -> tuple[Spec, ...]:
    return tuple(
        Spec(f"{kind}_{mode}", f"{label}, {shown}", family, mode, False, expected_route, kind)
        for mode, shown in (("eager", "eager"), ("function", "tf.function"))
    )


_OF_OURS = [
    spec
    for kind in OURS
    for spec in _pair(kind, f"tf_optim_ext {kind.replace('_', '-')}", "ours", "native")
]
ANCHOR = _OF_OURS[0]
_OF_PEERS = {
    "keras": _pair("keras", "Keras Adam", "keras"),
    "tf_keras": _pair("tf_keras", "tf_keras legacy Adam", "tf_keras"),
    "torch": (Spec("torch", "PyTorch SparseAdam", "torch", kind="torch"),),
}
# Whose update of a table a kind must agree with. Keras squares repeated rows one by one, so that
# it agrees with none.
REFERENCES = {**{kind: kind for kind in OURS}, "tf_keras": "exact", "torch": "lazy"}


def wanted_specs(peers: Iterable[str]) -> list[Spec]:
    """Every row that was asked for, the anchor first."""
    return [*_OF_OURS, *(spec for peer in PEERS if peer in peers for spec in _OF_PEERS[peer])]


def groups(specs: list[Spec], table_bytes: int, budget: int) -> list[list[Spec]]:
    """Splits the rows so that what a group holds and takes fits the budget; the anchor is in each.

    Args:
        specs: the rows, the anchor among them; those of a kind stay together.
        table_bytes: size of the table.
        budget: bytes for everything but the table itself.
    """
    anchor = MEMORY[ANCHOR.kind]
    found: list[list[str]] = [[ANCHOR.kind]]
    for kind in dict.fromkeys(spec.kind for spec in specs if spec.kind != ANCHOR.kind):
        for group in found:
            needed = sum(MEMORY[member] for member in group) + MEMORY[kind]
            # The first group has more of the anchor's kind, which need no slots of their own.
            needed += anchor if ANCHOR.kind not in group else 0
            if needed * table_bytes <= budget:
                group.append(kind)
                break
        else:
            found.append([kind])
    return [[ANCHOR, *(s for s in specs if s.kind in group and s is not ANCHOR)] for group in found]


def make_optimizer(kind: str, learning_rate: float) -> Any:
    """Adam with the numbers that the reference has.

    Raises:
        ModuleNotFoundError: there is no tf_keras.
    """
    numbers = (learning_rate, cases.BETA_1, cases.BETA_2, cases.EPSILON)
    if kind == "keras":
        return keras.optimizers.Adam(*numbers)
    if kind == "tf_keras":
        import tf_keras

        return tf_keras.optimizers.legacy.Adam(*numbers)
    return tf_optim_ext.Adam(*numbers, **OURS[kind])


def step_of(spec: Spec, optimizer: Any, table: keras.Variable) -> Callable[..., None]:
    """One step as a function of ids and values, as the row runs it."""
    shape = tf.constant(table.shape, tf.int64)
    variable = table.value if spec.family == "tf_keras" else table
    if spec.family != "tf_keras":
        optimizer.build([table])

    def apply(ids: tf.Tensor, values: tf.Tensor) -> None:
        optimizer.apply_gradients([(tf.IndexedSlices(values, ids, shape), variable)])

    return tf.function(apply) if spec.mode == "function" else apply


def tensors(given: list[cases.Gradient]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    return [(tf.constant(ids), tf.constant(values)) for ids, values in given]


def what_is_wrong(spec: Spec, seed: int) -> str | None:
    """What a row of this process gets wrong on a small table; None if nothing, or not known."""
    if spec.kind not in REFERENCES:
        return None
    table = keras.Variable(cases.small_table(seed))
    step = step_of(spec, make_optimizer(spec.kind, cases.CHECK_RATE), table)
    for gradient in tensors(cases.gradients(cases.CHECKED, seed)):
        step(*gradient)
    return cases.what_is_wrong(REFERENCES[spec.kind], table.numpy(), seed)


def build(
    spec: Spec, table: keras.Variable, given: list[tuple[tf.Tensor, tf.Tensor]], shared: dict
) -> _rows.Row:
    """Makes a row of this process.

    Args:
        spec: which one.
        table: the weights, the same for all rows.
        given: the gradients, taken in turn.
        shared: dict from a kind to its optimizer; gets what is not there yet.
    """
    if spec.kind not in shared:
        shared[spec.kind] = make_optimizer(spec.kind, 1e-3)
    row = _rows.Row(spec)
    row.optimizer = shared[spec.kind]
    step, turns = step_of(spec, row.optimizer, table), itertools.cycle(given)
    row.timed = _harness.Timed(lambda: step(*next(turns)), row.optimizer.iterations.numpy)
    return row


class WorkerError(RuntimeError):
    """The worker did not do what it was asked for."""


class Worker:
    """The process with PyTorch.

    Raises:
        WorkerError: it cannot be started, or its interpreter lacks PyTorch.
    """

    def __init__(self, python: str, threads: int, keep_memory: bool) -> None:
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise WorkerError(f"PyTorch's interpreter does not start: {error}") from error
        self._ended = ""  # why, if it did
        self.version = self.ask("start", threads=threads, keep_memory=keep_memory)["version"]

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            WorkerError: it failed, or the worker ended.
        """
        if self._ended:
            raise WorkerError(self._ended)
        line = json.dumps({"request": request, **arguments})
        try:
            print(line, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._ended = self._last_words()
            raise WorkerError(self._ended)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        _, said = self._process.communicate()
        last = said.strip().splitlines()[-1:] or [f"exit code {self._process.returncode}"]
        if last[0].startswith("ModuleNotFoundError: No module named 'torch'"):
            return "PyTorch not installed"
        return f"PyTorch's process ended: {last[0][:200]}"

    def what_is_wrong(self, kind: str, seed: int) -> str | None:
        return cases.what_is_wrong(REFERENCES[kind], self.ask("check", seed=seed)["table"], seed)

    def build(self, spec: Spec, case: cases.Case, seed: int, wanted: int) -> _rows.Row:
        """Makes its row; `wanted` is the checksum of the gradients that it must have."""
        answer = self.ask("build", case=dataclasses.asdict(case), seed=seed)
        if answer["checksum"] != wanted:
            raise WorkerError("void: its NumPy makes other gradients of the seed")
        row = _rows.Row(spec)
        row.timed = _harness.Timed(lambda: self.ask("window", steps=1)["seconds"])
        return row

    def take_windows(self, timed: _harness.Timed) -> int:
        """From now on one `step` is a window, as a request between steps would cool the caches."""
        steps, timed.steps_per_window = timed.steps_per_window, 1
        timed.step = lambda: self._window(steps)
        return steps

    def _window(self, steps: int) -> float:
        """Seconds per step; NaN when the worker ended, as the windows of the others go on."""
        try:
            return self.ask("window", steps=steps)["seconds"]
        except WorkerError:
            return math.nan

    def peak_growth(self) -> int | None:
        return self.ask("peak_growth")["bytes"]

    def close(self) -> None:
        """Ends the process and gives its memory back."""
        if self._process.poll() is None:
            self._process.communicate()
