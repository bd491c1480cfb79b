"""Rows of a table: the steps of several peers, timed in one run."""

import contextlib
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks import arguments, models, peers, timing
from benchmarks.options import Options
from benchmarks.peers import server

Json = dict[str, Any]

SLOW_SECONDS, FEW_WINDOWS = 1.0, 5  # of steps slower than this, fewer windows are taken
LIMIT = "limit"
MOST_STREAMED = 4  # arrays that the plain loop can write
Tick = Callable[[str, int], None]


@dataclass
class Row:
    """A row: what is timed, how it ran, and what went wrong if something did."""

    peer: str
    mode: str
    note: str = ""
    failed: bool = False
    about: Json = field(default_factory=dict)
    windows: list[float] = field(default_factory=list)
    peak_growth: int | None = None

    @property
    def key(self) -> str:
        return f"{self.peer}_{self.mode}"

    @property
    def is_limit(self) -> bool:
        return self.mode.startswith(LIMIT)

    @property
    def label(self) -> str:
        if self.is_limit:
            return "memory limit (plain loop)"
        peer = peers.PEERS[self.peer]
        return f"{peer.label}, {peer.modes[self.mode]}"

    @property
    def lives(self) -> bool:
        return bool(self.about) and not self.failed

    def fail(self, reason: str) -> None:
        self.failed, self.note = True, reason


def rows_of(names: Iterable[str], without_slow: bool = False) -> list[Row]:
    """All rows of some peers."""
    return [
        Row(name, mode)
        for name in names
        for mode in peers.PEERS[name].modes
        if not (without_slow and mode in peers.PEERS[name].slow)
    ]


@dataclass(frozen=True)
class Case:
    """What all rows of a table do: steps of an optimizer over weights of some shapes."""

    optimizer: str
    model: str
    shapes: tuple[models.Shape, ...]
    seed: int = 0

    @property
    def weights(self) -> int:
        return models.weights(list(self.shapes))


class Session:
    """Processes of peers. Those that do not start cost their own rows only.

    Example:
        with Session(options) as session:
            results = session.measure(case, rows_of(("ours", "keras")))
    """

    def __init__(self, options: Options, start: peers.Starter = peers.start) -> None:
        self.options = options
        self._start = start
        self._processes: dict[str, peers.Process] = {}
        self._reasons: dict[str, str] = {}
        self.about: dict[str, Json] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes.values():
            process.close()

    def process(self, name: str) -> peers.Process:
        """The process of a peer.

        Raises:
            PeerError: it did not start.
        """
        if name in self._reasons:
            raise peers.PeerMissing(self._reasons[name])
        if name not in self._processes:
            try:
                self._processes[name], self.about[name] = self._start(name, self.options)
            except peers.PeerError as error:
                self._reasons[name] = str(error)
                raise
        return self._processes[name]

    def measure(
        self,
        case: Case,
        rows: Sequence[Row],
        tick: Tick = lambda label, count: None,
        traces: int = 1,
    ) -> Json:
        """Times rows of one case, beside the limit of the memory.

        Args:
            case: what they do.
            rows: which; the first one is what the others are compared with.
            tick: is told what was done, and how many windows that was.
            traces: how often functions are traced.
        """
        program = self._program(case.optimizer)
        rows = list(rows)
        if program:
            rows.append(Row("ours", f"{LIMIT}{min(MOST_STREAMED, 1 + program['slots'])}"))
        for row in rows:
            self._check(row, case)
        for name in dict.fromkeys(row.peer for row in rows if not row.failed):
            self._make_case(name, case)
        for row in rows:
            self._build(row, case, traces)
            tick(row.label, 1 if row.lives else 1 + self.options.windows)
        self.interleave(rows, tick)
        for row in rows:  # last, as it takes from the allocator what it kept for the windows
            self._finish(row)
        self._drop(rows)
        return results(case, rows, program)

    def _program(self, optimizer: str) -> Json:
        try:
            return self.process("ours").ask("program", optimizer=optimizer)
        except peers.PeerError:
            return {}

    @contextlib.contextmanager
    def failing(self, row: Row) -> Iterator[None]:
        """Lets what goes wrong with a peer cost this row only."""
        try:
            yield
        except peers.PeerError as error:
            row.fail(str(error))

    def ask(self, asked: Row, request: str, **given: Any) -> Json:
        """The answer of a row's peer."""
        return self.process(asked.peer).ask(request, **given)

    def _check(self, row: Row, case: Case) -> None:
        """Compares steps over small weights with NumPy's."""
        if row.is_limit or row.failed:
            return
        with self.failing(row):
            found = self.ask(row, "check", mode=row.mode, optimizer=case.optimizer, seed=case.seed)
            runs = found["optimizer"]
            if runs != case.optimizer:
                row.note = f"{runs}: there is no {case.optimizer}"
            if runs not in arguments.UPDATES:
                row.note = "not checked: no reference"
                return
            weights = [np.array(w) for w in found["weights"]]
            given = server.checked_case(case.seed)
            if reason := arguments.what_is_wrong(runs, *given, weights, server.CHECKED_STEPS):
                row.fail(reason)

    def _make_case(self, name: str, case: Case) -> None:
        # Its rows will say why there is none.
        with contextlib.suppress(peers.PeerError):
            wanted = server.checksum(server.random_case(case.shapes[:1], case.seed)[0])
            given = self.process(name).ask("case", shapes=case.shapes, seed=case.seed)
            if given["checksum"] != wanted:
                self._reasons[name] = "void: its NumPy makes other weights of the seed"

    def _build(self, row: Row, case: Case, traces: int) -> None:
        if row.failed:
            return
        with self.failing(row):
            row.about = self.ask(
                row,
                "build",
                row=row.key,
                mode=row.mode,
                optimizer=case.optimizer,
                traces=traces,
                window_seconds=self.options.window_seconds,
            )
            if row.peer == "ours" and not row.about["route"]:
                row.fail("void: the optimizer names no route")

    def interleave(self, rows: Sequence[Row], tick: Tick) -> None:
        """Windows in turn, so that what the machine does meanwhile hits all rows alike."""
        order = [row for row in rows if row.lives]
        shuffle = random.Random(self.options.seed).shuffle
        for number in range(self.options.windows):
            shuffle(order)
            for row in order:
                if row.lives and not (number >= FEW_WINDOWS and _is_slow(row)):
                    with self.failing(row):
                        row.windows.append(self.ask(row, "window", row=row.key)["seconds"])
                tick(row.label, 1)

    def _finish(self, row: Row) -> None:
        if not row.lives or row.is_limit:
            return
        with self.failing(row):
            if not self.ask(row, "weights_are_finite", row=row.key)["finite"]:
                row.fail("void: its weights are not finite")
            elif self.options.device == "cpu":
                row.peak_growth = self.ask(row, "peak_growth", row=row.key)["bytes"]

    def _drop(self, rows: Sequence[Row]) -> None:
        for name in dict.fromkeys(row.peer for row in rows):
            with contextlib.suppress(peers.PeerError):
                self.process(name).ask("drop")


def _is_slow(row: Row) -> bool:
    # The median: a window in which the machine did something else shall not end the others.
    return statistics.median(row.windows) > SLOW_SECONDS


def results(case: Case, rows: Sequence[Row], program: Json) -> Json:
    """The numbers of one case; ratios are to its first row and the limit, in the same windows."""
    medians = {row.key: statistics.median(row.windows) for row in rows if row.windows}
    limit = next((medians.get(row.key) for row in rows if row.is_limit), None)
    step_bytes = program["bytes_per_weight"] * case.weights if program else None
    if limit is not None and program:
        streamed = 4 * (1 + 2 * min(MOST_STREAMED, 1 + program["slots"]))
        limit *= program["bytes_per_weight"] / streamed
    return {
        "optimizer": case.optimizer,
        "model": case.model,
        "variables": len(case.shapes),
        "weights": case.weights,
        "largest_variable_bytes": 4 * max(models.weights([shape]) for shape in case.shapes),
        **program,
        "rows": [_row_result(row, medians.get(rows[0].key), limit, step_bytes) for row in rows],
    }


def _row_result(
    row: Row, anchor: float | None, limit: float | None, step_bytes: int | None
) -> Json:
    result: Json = {
        "key": LIMIT if row.is_limit else row.key,
        "label": row.label,
        "route": row.about.get("route", ""),
        "note": row.note,
        "failed": row.failed,
    }
    if row.failed or not row.windows:
        return result
    low, seconds, high = timing.quartiles(row.windows)
    if row.is_limit:
        seconds = limit or seconds
    numbers = ("traces", "first_step_seconds", "state_bytes", "steps_per_window")
    return result | {
        "ms": 1e3 * seconds,
        "ms_quartiles": [1e3 * low, 1e3 * high],
        "ratio_to_anchor": seconds / anchor if anchor else None,
        "gigabytes_per_second": step_bytes / seconds / 1e9 if step_bytes else None,
        "percent_of_limit": 100 * limit / seconds if limit else None,
        "peak_memory_growth_bytes": row.peak_growth,
        **{name: row.about[name] for name in numbers},
        "windows_ms": [1e3 * window for window in row.windows],
    }
