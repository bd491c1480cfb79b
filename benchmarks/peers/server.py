"""The side of a peer's process: builds optimizer steps, times windows of them.

Requests and answers are lines of JSON, a request names a method of `Server`. Imports NumPy alone,
because each peer has an environment and a process of its own: libraries bring thread pools and
allocators, and none shall run with those of another.
"""

import gc
import json
import os
import sys
import zlib
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

import numpy as np

from benchmarks import timing

Json = dict[str, Any]
Shape = tuple[int, ...]

WEIGHT_SCALE, GRADIENT_SCALE = 2e-2, 1e-2
CHECKED_SHAPES: tuple[Shape, ...] = ((5, 7), (33,), ())
CHECKED_STEPS = 5


class Step(Protocol):
    """An optimizer step over some weights, as one row of a table runs it."""

    route: str  # how it runs, as far as the library tells
    optimizer_name: str  # what runs, where the library lacks what was asked for
    traces: list[Json]  # seconds and nodes of each time that it was traced

    def step(self) -> float | None:
        """Starts one step; returns seconds if it measures itself."""

    def finish(self) -> object:
        """Waits until everything that was started is done."""

    def weights(self) -> list[np.ndarray]:
        """The weights now."""

    def state_bytes(self) -> int:
        """Bytes that the optimizer keeps beside the weights."""


class Library(Protocol):
    """What a peer has to offer; `gradients` are the same for all steps of a case."""

    def start(self, threads: int, device: str) -> Json:
        """Sets the library up; returns versions, and the device as the library names it."""

    def case(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        """Makes the weights and gradients that the steps of `make` share."""

    def make(self, mode: str, optimizer: str, traces: int) -> Step:
        """A step in one of the peer's modes.

        Raises:
            Missing: the library has no such optimizer.
        """

    def forget(self) -> None:
        """Lets go of the case."""


class Missing(Exception):
    """The peer has no such optimizer or mode; the message says so."""


def random_case(shapes: Sequence[Shape], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and gradients, the same for a seed in every process."""
    numbers = np.random.default_rng(seed)
    weights = [_random(numbers, shape, WEIGHT_SCALE) for shape in shapes]
    return weights, [_random(numbers, shape, GRADIENT_SCALE) for shape in shapes]


def _random(numbers: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    values = np.asarray(scale * numbers.standard_normal(shape, dtype=np.float32), np.float32)
    # Squares of very small numbers would be denormal, and denormals are slow everywhere.
    return values + np.copysign(np.float32(1e-4), values)


def checked_case(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Small weights, and gradients so large that it does not matter where an epsilon is added."""
    weights, gradients = random_case(CHECKED_SHAPES, seed)
    return weights, [100 * g for g in gradients]


def checksum(arrays: Sequence[np.ndarray]) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(array.tobytes(), found)
    return found


class Server:
    """What can be asked for; the methods' names are those of the requests."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.rows: dict[str, timing.Timed] = {}
        self.steps: dict[str, Step] = {}

    def start(self, threads: int, device: str, keep_memory: bool) -> Json:
        kept = keep_memory and timing.keep_freed_memory()
        return {**self.library.start(threads, device), "malloc_keeps_memory": kept}

    def check(self, mode: str, optimizer: str, seed: int) -> Json:
        """Small weights after some steps."""
        self.library.case(*checked_case(seed))
        step = self.library.make(mode, optimizer, 1)
        for _ in range(CHECKED_STEPS):
            step.step()
        step.finish()
        weights = [w.tolist() for w in step.weights()]
        self.library.forget()
        return {"weights": weights, "optimizer": step.optimizer_name}

    def case(self, shapes: list[list[int]], seed: int) -> Json:
        """Makes weights and gradients for the rows to come; those of an earlier case are gone."""
        self.drop()
        weights, gradients = random_case([tuple(shape) for shape in shapes], seed)
        self.library.case(weights, gradients)
        return {"checksum": checksum(weights[:1])}

    def build(
        self, row: str, mode: str, optimizer: str, traces: int, window_seconds: float
    ) -> Json:
        """Makes a row, and runs it often enough to be timed."""
        with timing.Stopwatch() as first:
            step = self.library.make(mode, optimizer, traces)
            step.step()
            step.finish()
        timed = timing.Timed(step.step, step.finish)
        timing.warm_up(timed, window_seconds)
        self.rows[row], self.steps[row] = timed, step
        gc.collect()
        gc.freeze()  # no row shall pay for collecting the graphs of the others
        return {
            "route": step.route,
            "traces": step.traces,
            "first_step_seconds": first.seconds,
            "state_bytes": step.state_bytes(),
            "steps_per_window": timed.steps_per_window,
        }

    def window(self, row: str) -> Json:
        return {"seconds": timing.window(self.rows[row])}

    def peak_growth(self, row: str) -> Json:
        return {"bytes": timing.peak_growth(self.rows[row].step, self.rows[row].finish)}

    def weights_are_finite(self, row: str) -> Json:
        return {"finite": all(bool(np.isfinite(w).all()) for w in self.steps[row].weights())}

    def drop(self) -> Json:
        """Gives the memory of the case back."""
        self.rows, self.steps = {}, {}
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
