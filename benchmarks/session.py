"""Rows of a table: the steps of several peers, timed in one run."""

import contextlib
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import Json, arguments, checks, models, report, results, timing
from benchmarks.options import Options
from benchmarks.peers import PEERS, SPARSE, server
from benchmarks.process import PeerError, PeerMissing, Process, Starter, start

SLOW_SECONDS, FEW_REPEATS = 1.0, 5  # of steps slower than this, fewer repeats are taken
STREAM = "stream"
MOST_STREAMED = 4  # arrays that STREAM can write
# What a process needs beside weights and gradients, in copies of the weights: what a step of Keras
# takes for a while, and slots for each row.
TEMPORARY_COPIES, SLOTS = 3, 2
MEMORY_IN_USE = 0.7  # part of what is free
Tick = Callable[[int], None]  # is told how many repeats were done


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
    def is_stream(self) -> bool:
        return self.mode.startswith(STREAM)

    @property
    def key(self) -> str:
        parts = (self.peer, self.variant, self.mode)
        return STREAM if self.is_stream else "_".join(filter(None, parts))

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

    def result(self, scale: float = 1.0) -> Json:
        """What results state of it, with times multiplied by a scale."""
        names = ("key", "label", "note", "failed")
        found = {name: getattr(self, name) for name in names}
        found["route"] = self.about.get("route", "")
        if self.failed or not self.repeats:
            return found
        found |= results.summary([scale * seconds for seconds in self.repeats])
        for name, value in () if self.is_stream else self.about.items():
            if value is not None:
                found[name] = results.rounded(value) if isinstance(value, float) else value
        return found


def rows_of(names: Iterable[str], without_slow: bool = False) -> list[Row]:
    """All rows of some peers, but those over embedding tables."""
    pairs = [(name, mode) for name in names for mode in PEERS[name].modes if mode not in SPARSE]
    return [Row(n, mode) for n, mode in pairs if not (without_slow and mode in PEERS[n].slow)]


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
        self.options, self._start = options, start
        self._processes: dict[str, Process] = {}
        self._reasons: dict[str, str] = {}
        self.about: dict[str, Json] = {}

    def process(self, name: str) -> Process:
        """The process of a peer; PeerError if it did not start."""
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
        self, case: Case, rows: Sequence[Row], tick: Tick = lambda count: None, traces: int = 1
    ) -> Json:
        """Times rows of one case; of dense steps, beside STREAM.

        The first row is what the others are compared with. Functions are traced `traces` times.
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
            tick(1 if row.lives else 1 + self.options.repeats)
        self.interleave(rows, tick)
        for row in rows:  # last, as it takes from the allocator what it kept for the repeats
            self._finish(row)
        for name in dict.fromkeys(row.peer for row in rows):
            with contextlib.suppress(PeerError):
                self.process(name).ask("drop")
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
        """Compares steps over few weights with the references'."""
        if row.is_stream or row.failed:
            return
        seed, sparse = self.options.seed, case.rows > 0
        with self.failing(row):
            found = self.ask(row, "check", **_what(row, case), seed=seed, sparse=sparse)
            runs, kind = found["optimizer"], row.variant or PEERS[row.peer].sparse
            if runs != case.optimizer:
                row.note = f"{runs}: there is no {case.optimizer}"
            if runs not in arguments.ARGUMENTS:
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
                # The median: one repeat that is disturbed shall not end the others.
                slow = number >= FEW_REPEATS and statistics.median(row.repeats) > SLOW_SECONDS
                if row.lives and not slow:
                    with self.failing(row):
                        row.repeats.append(self.ask(row, "repeat", row=row.key)["seconds"])
                tick(1)

    def _finish(self, row: Row) -> None:
        if not row.lives or row.is_stream:
            return
        with self.failing(row):
            found = self.ask(row, "finish", row=row.key)
            if not found["finite"]:
                row.fail("void: its weights are not finite")
            elif self.options.device == "cpu":
                row.about["peak_growth_bytes"] = found["peak_growth"]


def _what(row: Row, case: Case) -> Json:
    options = [*case.options, *filter(None, [row.variant])]
    return {"mode": row.mode, "optimizer": case.optimizer, "options": options}


def streamed(program: Json) -> int:
    """How many arrays STREAM writes beside a step; it reads one more."""
    return min(MOST_STREAMED, 1 + program["slots"])


def result_of(case: Case, rows: Sequence[Row], program: Json, threads: int) -> Json:
    """The numbers of one case; ratios are to its first row and to STREAM, in the same repeats."""
    moved = program.get("bytes_per_weight", 0)
    scale = moved / (4 * (1 + 2 * streamed(program))) if program else 1.0
    shown = [row.result(scale if row.is_stream else 1.0) for row in rows]
    first = shown[0].get("ms")
    stream = next((row["ms"] for row in shown if row["key"] == STREAM and "ms" in row), None)
    for row in shown:
        if ms := row.get("ms"):
            ratio, speed = ms / first if first else None, moved * case.weights / ms / 1e6 or None
            percent = 100 * stream / ms if stream else None
            numbers = {
                "ratio": ratio,
                "gigabytes_per_second": speed,
                "percent_of_roofline": percent,
            }
            row |= {name: results.rounded(value) for name, value in numbers.items() if value}
    sparse = {"rows_of_gradient": case.rows, "duplicates": case.duplicates} if case.rows else {}
    about = {"optimizer": case.optimizer, "model": case.model, "options": list(case.options)}
    sizes = {"threads": threads, "variables": len(case.shapes), "weights": case.weights}
    return {**about, **sizes, **program, **sparse, "rows": shown}


def copies(rows: Sequence[Row]) -> int:
    """How often the processes of rows hold the weights, or as many other numbers, at most."""
    return (2 + TEMPORARY_COPIES) * len({row.peer for row in rows}) + SLOTS * len(rows)


def groups(rows: Sequence[Row], weights: int, budget: int) -> list[list[Row]]:
    """Splits rows so that the processes of a group fit the budget.

    The rows of the first peer are in the first group, its first row is in every group: the others
    are compared with it.
    """
    first = rows[0]
    found = [[row for row in rows if row.peer == first.peer]]
    for name in dict.fromkeys(row.peer for row in rows if row.peer != first.peer):
        added = [row for row in rows if row.peer == name]
        alone = len({row.peer for row in found[-1]}) == 1
        if 4 * weights * copies([*found[-1], *added]) > budget and not alone:
            found.append([Row(first.peer, first.mode, first.variant)])
        found[-1].extend(added)
    return found


def measured(
    options: Options, case: Case, rows: Sequence[Row], bar: report.Bar, start: Starter, traces: int
) -> tuple[Json, Json]:
    """The table of a case, and what processes say of themselves; in groups that fit into memory."""
    parts, about = [], {}
    budget = int(MEMORY_IN_USE * timing.available_memory())
    for group in groups(rows, case.weights, budget):
        # A row counts once for building it; one more row is STREAM.
        bar.begin(case.name, (len(group) + 1) * (1 + options.repeats))
        with Session(options, start) as session:
            parts.append(session.measure(case, group, bar.tick, traces))
            about |= session.about
    return joined(parts), about


def joined(parts: Sequence[Json]) -> Json:
    """One table from those of groups: rows that come again are dropped, ratios stay as they are."""
    found: dict[str, Json] = {}
    for row in (row for part in parts for row in part["rows"]):
        found.setdefault(row["key"], row)
    return {**parts[0], "groups": len(parts), "rows": list(found.values())}
