"""Measuring: interleaved windows, memory, tracing. Knows nothing about optimizers."""

import contextlib
import ctypes
import math
import mmap
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_STEPS = 2
MOST_STEPS_PER_WINDOW = 2000
PAGE = 4096
# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -3, -4, -8
LARGE_BLOCK = 32 << 20  # the largest M_MMAP_THRESHOLD that glibc takes
DEFAULT_MMAP_MAX = 1 << 16


class Stopwatch:
    """Seconds that a `with` block takes."""

    seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start


@dataclass
class Timed:
    """Something to time: `step` does the work, `finish` waits until all of it is done.

    A `step` that measures itself (the memory limit) returns seconds; others return None.
    """

    step: Callable[[], float | None]
    finish: Callable[[], object] = lambda: None
    steps_per_window: int = 1
    windows: list[float] = field(default_factory=list)


def warm_up(timed: Timed, window_seconds: float) -> None:
    """Traces, compiles, touches all memory, and finds out how many steps make a window."""
    for _ in range(WARM_UP_STEPS):
        timed.step()
    seconds = max(_window(timed, 1), 1e-6)
    steps = math.ceil(window_seconds / seconds)
    timed.steps_per_window = max(1, min(MOST_STEPS_PER_WINDOW, steps))


def interleave(everything: Sequence[Timed], windows: int, seed: int) -> None:
    """Times all of them in turn, so that what the machine does meanwhile hits all of them alike."""
    order = list(everything)
    shuffle = random.Random(seed).shuffle
    for _ in range(windows):
        shuffle(order)
        for timed in order:
            timed.windows.append(window(timed))


def window(timed: Timed) -> float:
    """Seconds per step in one window."""
    if timed.steps_per_window > 1:
        timed.step()  # whatever ran before left its own data in the caches
        timed.finish()
    return _window(timed, timed.steps_per_window)


def _window(timed: Timed, steps: int) -> float:
    """Seconds per step."""
    start = time.perf_counter()
    measured = [timed.step() for _ in range(steps)]
    timed.finish()
    if measured[0] is not None:
        return statistics.fmean(measured)
    return (time.perf_counter() - start) / steps


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def available_memory() -> int:
    """Bytes that can be used without swapping; a cautious guess where Linux does not tell."""
    found = _proc_kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return found * 1024 if found is not None else 4 << 30


def keep_freed_memory() -> bool:
    """Makes malloc keep what is freed; returns whether it could be asked to.

    By default glibc returns large blocks to the system, and a step that allocates temporaries gets
    fresh pages for them every time. On virtual machines that can cost ten times what the step does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # More arenas than one would be limited to small blocks and returned when empty.
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))
    refused = [name for name, value in settings if mallopt(name, value) != 1]
    return not refused


def keep_large_blocks(keep: bool) -> None:
    """Chooses whether malloc, which keeps freed memory, also keeps the largest blocks."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    mallopt(M_MMAP_MAX, 0 if keep else DEFAULT_MMAP_MAX)


def fresh_page_microseconds(megabytes: int = 64) -> float:
    """What the first touch of a page costs here; a fraction of a microsecond is usual."""
    with mmap.mmap(-1, megabytes << 20) as memory:
        pages = np.frombuffer(memory, np.uint8)[::PAGE]
        seconds = []
        for value in (1, 2):
            start = time.perf_counter()
            pages[:] = value
            seconds.append(time.perf_counter() - start)
        count = len(pages)
        del pages  # a mapping cannot be closed while something refers to it
    return 1e6 * (seconds[0] - seconds[1]) / count


def peak_growth(
    step: Callable[[], object], finish: Callable[[], object] = lambda: None
) -> int | None:
    """Bytes by which one step raises the process's resident memory at most, None if unknown.

    Memory that the allocator kept from earlier steps would hide what this one takes, so it is given
    back to the system first.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    except OSError:
        return None
    status = Path("/proc/self/status")
    before = _proc_kilobytes(status, "VmRSS")
    step()
    finish()
    peak = _proc_kilobytes(status, "VmHWM")
    return None if before is None or peak is None else max(0, peak - before) * 1024


def _proc_kilobytes(path: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def trace(function: Any) -> dict[str, Any]:
    """Traces a `tf.function` without arguments: how long that takes, how large the graph is."""
    start = time.perf_counter()
    concrete = function.get_concrete_function()
    seconds = time.perf_counter() - start
    graph = concrete.graph.as_graph_def()
    nodes = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
    return {"seconds": seconds, "nodes": nodes}
