"""Measuring: time, memory, tracing. Knows nothing about optimizers.

What is measured is a function that takes a number of steps and returns when all are done; if it
measures itself, as STREAM does, it returns seconds per step.
"""

import contextlib
import ctypes
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Run = Callable[[int], float | None]
WARM_UP_STEPS, MOST_STEPS = 2, 2000
PROBES = 3
# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def seconds_per_step(run: Run, steps: int) -> float:
    start = time.perf_counter()
    measured = run(steps)
    return (time.perf_counter() - start) / steps if measured is None else measured


def steps_of(run: Run, repeat_seconds: float) -> int:
    """How many steps make a repeat; traces, compiles and touches all memory before."""
    run(WARM_UP_STEPS)
    steps = 1
    for _ in range(PROBES):  # a call may cost something beside its steps
        seconds = steps * max(seconds_per_step(run, steps), 1e-6)
        if seconds >= repeat_seconds:
            break
        steps = max(1, min(MOST_STEPS, math.ceil(1.1 * steps * repeat_seconds / seconds)))
    return steps


def repeat(run: Run, steps: int) -> float:
    """Seconds per step in one repeat."""
    if steps > 1:
        run(1)  # whatever ran before left its own data in the caches
    return seconds_per_step(run, steps)


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


def peak_growth(run: Run, steps: int) -> int | None:
    """Bytes by which steps raise the process's resident memory at most, None if unknown.

    Memory that the allocator kept from earlier steps would hide what these take, so it is given
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
    run(steps)
    peak = _proc_kilobytes(status, "VmHWM")
    return None if before is None or peak is None else max(0, peak - before) * 1024


def _proc_kilobytes(path: Path, name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def trace(function: Any) -> tuple[float, int]:
    """Traces a `tf.function` without arguments: seconds, and nodes of its graph."""
    start = time.perf_counter()
    concrete = function.get_concrete_function()
    seconds = time.perf_counter() - start
    graph = concrete.graph.as_graph_def()
    nodes = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
    return seconds, nodes
