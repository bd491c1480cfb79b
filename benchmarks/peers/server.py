"""The side of a peer's process: builds optimizer steps, times repeats of them.

Requests and answers are lines of JSON, a request names a method of `Server`. Imports NumPy alone,
because each peer has an environment and a process of its own: libraries bring thread pools and
allocators, and none shall run with those of another.

A peer is a library with the methods `start`, `case`, `make` and `forget`; what `make` returns is a
`Step`.
"""

import gc
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np

from benchmarks import Json, arguments, timing

Shape = tuple[int, ...]
# Dense, or of an embedding table: ids (int64), and as many rows (float32).
Gradient = np.ndarray | tuple[np.ndarray, np.ndarray]
Turns = list[list[Gradient]]

WEIGHT_SCALE, GRADIENT_SCALE = 2e-2, 1e-2
CHECKED_SHAPES: tuple[Shape, ...] = ((5, 7), (33,), ())
CHECKED_TABLE: Json = {"shapes": ((40, 6),), "rows": 12, "duplicates": 50}
CHECKED_STEPS = 5
TURNS = 8  # gradients of a table, so that the rows of a step are not those of the step before


class Missing(Exception):
    """The peer has no such optimizer or mode; the message says so."""


class Step:
    """Steps of an optimizer, as one row of a table runs them."""

    route = ""  # how it runs, as far as the library tells
    optimizer_name = ""  # what runs, where the library lacks what was asked for
    traces: Sequence[tuple[float, int]] = ()  # seconds and nodes of each time it was traced
    step: Callable[[], object]  # starts one

    def finish(self) -> None:
        """Waits until the device has done everything that was started."""

    def run(self, steps: int) -> float | None:
        """Takes steps; returns seconds per step if it measures itself."""
        for _ in range(steps):
            self.step()
        self.finish()
        return None

    def weights(self) -> list[np.ndarray]:
        """The weights now."""
        return []

    def averages(self) -> list[np.ndarray]:
        """The averages of the weights, where there are some; no step is taken after that."""
        return []

    def state_bytes(self) -> int:
        """Bytes that the optimizer keeps beside the weights."""
        return 0


def random_case(
    shapes: Sequence[Shape], seed: int, rows: int = 0, duplicates: int = 0
) -> tuple[list[np.ndarray], Turns]:
    """Weights, and gradients in turn, the same for a seed in every process."""
    numbers = np.random.default_rng(seed)
    weights = [_random(numbers, shape, WEIGHT_SCALE) for shape in shapes]
    if rows:
        turns = [[_sparse(numbers, s, rows, duplicates) for s in shapes] for _ in range(TURNS)]
        return weights, turns
    return weights, [[_random(numbers, shape, GRADIENT_SCALE) for shape in shapes]]


def _random(numbers: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    values = np.asarray(scale * numbers.standard_normal(shape, dtype=np.float32), np.float32)
    # Squares of very small numbers would be denormal, and denormals are slow everywhere.
    return np.asarray(values + np.copysign(np.float32(1e-4), values))


def distinct(rows: int, duplicates: int) -> int:
    return max(1, rows - rows * duplicates // 100)


def _sparse(numbers: np.random.Generator, table: Shape, rows: int, duplicates: int) -> Gradient:
    ids = numbers.choice(table[0], distinct(rows, duplicates), replace=False)
    again = numbers.choice(ids, rows - len(ids))
    ids = numbers.permutation(np.concatenate([ids, again])).astype(np.int64)
    return ids, _random(numbers, (rows, table[1]), GRADIENT_SCALE)


def checked_case(seed: int, sparse: bool = False) -> tuple[list[np.ndarray], Turns]:
    """Few weights, so large that a decay is seen, and gradients so large that no epsilon is."""
    if sparse:
        weights, turns = random_case(seed=seed, **CHECKED_TABLE)
        return weights, [[(ids, 100 * rows) for ids, rows in turn] for turn in turns]
    weights, turns = random_case(CHECKED_SHAPES, seed)
    return [30 * w for w in weights], [[100 * g for g in turn] for turn in turns]


def checksum(arrays: Sequence[np.ndarray]) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(array.tobytes(), found)
    return found


def refuse(options: Sequence[str], library: str) -> None:
    """For libraries without options."""
    if options:
        raise Missing(f"{library} is not measured with {'+'.join(options)}")


class Server:
    """What can be asked for; the methods' names are those of the requests."""

    def __init__(self, library: Any) -> None:
        self.library = library
        self.rows: dict[str, tuple[Step, int, int]] = {}  # steps of a repeat, and of an update

    def start(self, threads: int, device: str, keep_memory: bool) -> Json:
        kept = keep_memory and timing.keep_freed_memory()
        return {**self.library.start(threads, device), "malloc_keeps_memory": kept}

    def check(self, seed: int, sparse: bool, **what: Any) -> Json:
        """Few weights after some updates."""
        self.library.case(*checked_case(seed, sparse))
        step = self.library.make(traces=1, **what)
        every = arguments.updates_every(what["options"])
        step.run(TURNS if sparse else CHECKED_STEPS * every)
        found = step.averages() if "ema" in what["options"] else step.weights()
        self.library.forget()
        return {"weights": [w.tolist() for w in found], "optimizer": step.optimizer_name}

    def case(self, shapes: list[list[int]], seed: int, rows: int, duplicates: int) -> Json:
        """Makes weights and gradients for the rows to come; those of an earlier case are gone."""
        self.drop()
        weights, turns = random_case([tuple(shape) for shape in shapes], seed, rows, duplicates)
        self.library.case(weights, turns)
        return {"checksum": checksum(weights[:1])}

    def build(self, row: str, traces: int, repeat_seconds: float, **what: Any) -> Json:
        """Makes a row, and runs it often enough to be timed."""
        start = time.perf_counter()
        step = self.library.make(traces=traces, **what)
        step.run(1)
        first = time.perf_counter() - start
        every = arguments.updates_every(what["options"])
        steps = timing.steps_of(step.run, repeat_seconds)
        self.rows[row] = step, every * -(-steps // every), every
        gc.collect()
        gc.freeze()  # no row shall pay for collecting the graphs of the others
        seconds = [seconds for seconds, _ in step.traces]
        return {
            "route": step.route,
            "trace_seconds": statistics.median(seconds) if seconds else None,
            "graph_nodes": step.traces[-1][1] if seconds else None,
            "first_step_seconds": first,
            "state_bytes": step.state_bytes(),
        }

    def repeat(self, row: str) -> Json:
        step, steps, _ = self.rows[row]
        return {"seconds": timing.repeat(step.run, steps)}

    def finish(self, row: str) -> Json:
        """Whether the weights of a row are finite, and how much memory an update takes."""
        step, _, every = self.rows[row]
        finite = all(bool(np.isfinite(w).all()) for w in step.weights())
        return {"finite": finite, "peak_growth": timing.peak_growth(step.run, every)}

    def drop(self) -> Json:
        """Gives the memory of the case back."""
        self.rows = {}
        self.library.forget()
        gc.unfreeze()
        gc.collect()  # optimizers and graphs refer to each other; their slots must go now
        return {}


def answer(server: Any, line: str) -> Json:
    request = json.loads(line)
    try:
        return getattr(server, request.pop("request"))(**request)
    except Missing as error:
        return {"missing": str(error)}
    except ModuleNotFoundError as error:
        return {"missing": f"{error.name} not installed"}
    except Exception as error:  # the other process says which row it costs
        first = (str(error).splitlines() or [""])[0]
        return {"error": f"{type(error).__name__}: {first[:200]}"}


def serve(server: Any) -> None:
    """Answers requests until there are no more."""
    # What libraries print must not end up between the answers.
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(server, line)), file=answers, flush=True)
