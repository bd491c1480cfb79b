"""Rows of a table: the steps of several peers, timed in one run."""

import contextlib
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import arguments, checks, models, results
from benchmarks.options import Options
from benchmarks.peers import PEERS, SPARSE, server
from benchmarks.process import PeerError, PeerMissing, Process, Starter, start

Json = dict[str, Any]

SLOW_SECONDS, FEW_REPEATS = 1.0, 5  # of steps slower than this, fewer repeats are taken
STREAM = "stream"
MOST_STREAMED = 4  # arrays that STREAM can write
Tick = Callable[[str, int], None]


@dataclass
class Row:
    """A row: what is timed, how it ran, and what went wrong if something did.

    `variant` is one of `arguments.SPARSE` in rows of ours over embedding tables.
    """

    peer: str
    mode: str
    variant: str = ""
    note: str = ""
    failed: bool = False
    about: Json = field(default_factory=dict)
    repeats: list[float] = field(default_factory=list)

    @property
    def key(self) -> str:
        parts = (self.peer, self.variant, self.mode)
        return STREAM if self.is_stream else "_".join(filter(None, parts))

    @property
    def is_stream(self) -> bool:
        return self.mode.startswith(STREAM)

    @property
    def label(self) -> str:
        if self.is_stream:
            return "roofline: STREAM bandwidth"
        peer = PEERS[self.peer]
        return f"{' '.join(filter(None, (peer.label, self.variant)))}, {peer.modes[self.mode]}"

    @property
    def lives(self) -> bool:
        return bool(self.about) and not self.failed

    def fail(self, reason: str) -> None:
        self.failed, self.note = True, reason

    def result(self) -> Json:
        """What results state of every row."""
        names = ("key", "label", "note", "failed")
        return {name: getattr(self, name) for name in names} | {
            "route": self.about.get("route", "")
        }


def rows_of(names: Iterable[str], without_slow: bool = False) -> list[Row]:
    """All rows of some peers, but those over embedding tables."""
    return [
        Row(name, mode)
        for name in names
        for mode in PEERS[name].modes
        if mode not in SPARSE and not (without_slow and mode in PEERS[name].slow)
    ]


@dataclass(frozen=True)
class Case:
    """What all rows of a table do: steps of an optimizer over weights of some shapes.

    With `rows`, gradients are sparse: so many rows, of which `duplicates` percent repeat others.
    """

    optimizer: str
    model: str
    shapes: tuple[models.Shape, ...]
    options: tuple[str, ...] = ()
    rows: int = 0
    duplicates: int = 0

    @property
    def weights(self) -> int:
        return models.weights(self.shapes)

    @property
    def name(self) -> str:
        return " ".join([f"{self.optimizer} on {self.model}", *self.options])


class Session(contextlib.ExitStack):
    """Processes of peers. Those that do not start cost their own rows only.

    Example:
        with Session(options) as session:
            results = session.measure(case, rows_of(("ours", "keras")))
    """

    def __init__(self, options: Options, start: Starter = start) -> None:
        super().__init__()
        self.options = options
        self._start = start
        self._processes: dict[str, Process] = {}
        self._reasons: dict[str, str] = {}
        self.about: dict[str, Json] = {}

    def process(self, name: str) -> Process:
        """The process of a peer.

        Raises:
            PeerError: it did not start.
        """
        if name in self._reasons:
            raise PeerMissing(self._reasons[name])
        if name not in self._processes:
            try:
                self._processes[name], self.about[name] = self._start(name, self.options)
            except PeerError as error:
                self._reasons[name] = str(error)
                raise
            self.callback(self._processes[name].close)
        return self._processes[name]

    def measure(
        self,
        case: Case,
        rows: Sequence[Row],
        tick: Tick = lambda label, count: None,
        traces: int = 1,
    ) -> Json:
        """Times rows of one case; of dense steps, beside STREAM.

        Args:
            case: what they do.
            rows: which; the first one is what the others are compared with.
            tick: is told what was done, and how many repeats that was.
            traces: how often functions are traced.
        """
        rows, program = list(rows), self._program(case)
        if program:
            rows.append(Row("ours", f"{STREAM}{streamed(program)}"))
        for row in rows:
            self._check(row, case)
        for name in dict.fromkeys(row.peer for row in rows if not row.failed):
            self._make_case(name, case)
        for row in rows:
            self._build(row, case, traces)
            tick(row.label, 1 if row.lives else 1 + self.options.repeats)
        self.interleave(rows, tick)
        for row in rows:  # last, as it takes from the allocator what it kept for the repeats
            self._finish(row)
        self.drop(rows)
        return result_of(case, rows, program, self.options.threads)

    def _program(self, case: Case) -> Json:
        """What a dense step moves; nothing where it is not known."""
        if case.rows:
            return {}
        try:
            program = self.process("ours").ask("program", optimizer=case.optimizer)
        except PeerError:
            return {}
        moved = arguments.bytes_per_weight(program["bytes_per_weight"], case.options)
        return {**program, "bytes_per_weight": moved}

    @contextlib.contextmanager
    def failing(self, row: Row) -> Iterator[None]:
        """Lets what goes wrong with a peer cost this row only."""
        try:
            yield
        except PeerError as error:
            row.fail(str(error))

    def ask(self, asked: Row, request: str, **given: Any) -> Json:
        """The answer of a row's peer."""
        return self.process(asked.peer).ask(request, **given)

    def _check(self, row: Row, case: Case) -> None:
        """Compares steps over small weights with the references'."""
        if row.is_stream or row.failed:
            return
        seed, sparse = self.options.seed, case.rows > 0
        with self.failing(row):
            found = self.ask(row, "check", **_what(row, case), seed=seed, sparse=sparse)
            runs = found["optimizer"]
            if runs != case.optimizer:
                row.note = f"{runs}: there is no {case.optimizer}"
            kind = row.variant or PEERS[row.peer].sparse
            if not checks.is_known(runs):
                row.note = "not checked: no reference"
            elif sparse and not kind:
                row.note = "not checked: squares duplicates one by one"
            else:
                weights, turns = server.checked_case(seed, sparse)
                if sparse:
                    gradients = [gradient for (gradient,) in turns]
                    wanted = [checks.table_after(kind, weights[0], gradients)]
                else:
                    steps = (turns[0], server.CHECKED_STEPS)
                    wanted = checks.weights_after(runs, case.options, weights, *steps)
                after = [np.array(w) for w in found["weights"]]
                if reason := checks.what_is_wrong(weights, after, wanted):
                    row.fail(reason)

    def _make_case(self, name: str, case: Case) -> None:
        seed, sparse = self.options.seed, {"rows": case.rows, "duplicates": case.duplicates}
        with contextlib.suppress(PeerError):  # its rows will say why there is none
            wanted = server.checksum(server.random_case(case.shapes[:1], seed)[0])
            found = self.process(name).ask("case", shapes=case.shapes, seed=seed, **sparse)
            if found["checksum"] != wanted:
                self._reasons[name] = "void: its NumPy makes other weights of the seed"

    def _build(self, row: Row, case: Case, traces: int) -> None:
        if row.failed:
            return
        more = {"traces": traces, "repeat_seconds": self.options.repeat_seconds}
        with self.failing(row):
            row.about = self.ask(row, "build", row=row.key, **_what(row, case), **more)
            if row.peer == "ours" and not row.about["route"]:
                row.fail("void: the optimizer names no route")

    def interleave(self, rows: Sequence[Row], tick: Tick) -> None:
        """Repeats in turn, so that what the machine does meanwhile hits all rows alike."""
        order = [row for row in rows if row.lives]
        shuffle = random.Random(self.options.seed).shuffle
        for number in range(self.options.repeats):
            shuffle(order)
            for row in order:
                if row.lives and not (number >= FEW_REPEATS and _is_slow(row)):
                    with self.failing(row):
                        row.repeats.append(self.ask(row, "repeat", row=row.key)["seconds"])
                tick(row.label, 1)

    def _finish(self, row: Row) -> None:
        if not row.lives or row.is_stream:
            return
        with self.failing(row):
            found = self.ask(row, "finish", row=row.key)
            if not found["finite"]:
                row.fail("void: its weights are not finite")
            elif self.options.device == "cpu":
                row.about["peak_growth_bytes"] = found["peak_growth"]

    def drop(self, rows: Sequence[Row]) -> None:
        """Gives the memory of a case back."""
        for name in dict.fromkeys(row.peer for row in rows):
            with contextlib.suppress(PeerError):
                self.process(name).ask("drop")


def _what(row: Row, case: Case) -> Json:
    options = [*case.options, *filter(None, [row.variant])]
    return {"mode": row.mode, "optimizer": case.optimizer, "options": options}


def _is_slow(row: Row) -> bool:
    # The median: a repeat in which the machine did something else shall not end the others.
    return statistics.median(row.repeats) > SLOW_SECONDS


def streamed(program: Json) -> int:
    """How many arrays STREAM writes beside a step; it reads one more."""
    return min(MOST_STREAMED, 1 + program["slots"])


def result_of(case: Case, rows: Sequence[Row], program: Json, threads: int) -> Json:
    """The numbers of one case; ratios are to its first row and to STREAM, in the same repeats."""
    sparse = {"rows_of_gradient": case.rows, "duplicates": case.duplicates} if case.rows else {}
    shown = [_row_result(row, program) for row in rows]
    stream = next((row["ms"] for row in shown if row["key"] == STREAM and "ms" in row), None)
    for row in shown:
        if "ms" not in row:
            continue
        if first := shown[0].get("ms"):
            row["ratio"] = results.rounded(row["ms"] / first)
        if program:
            speed = program["bytes_per_weight"] * case.weights / row["ms"] / 1e6
            row["gigabytes_per_second"] = results.rounded(speed)
        if stream:
            row["percent_of_roofline"] = results.rounded(100 * stream / row["ms"])
    return {
        "optimizer": case.optimizer,
        "model": case.model,
        "options": list(case.options),
        "threads": threads,
        "variables": len(case.shapes),
        "weights": case.weights,
        **program,
        **sparse,
        "rows": shown,
    }


def _row_result(row: Row, program: Json) -> Json:
    if row.failed or not row.repeats:
        return row.result()
    if row.is_stream:
        scale = program["bytes_per_weight"] / (4 * (1 + 2 * streamed(program)))
        return row.result() | results.summary([scale * seconds for seconds in row.repeats])
    measured = {name: value for name, value in row.about.items() if value is not None}
    return row.result() | results.summary(row.repeats) | measured
