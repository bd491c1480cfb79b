"""Times several ways of doing the same work: interleaved repeats, medians."""

import random
import statistics
import time
from collections.abc import Callable

Way = Callable[[], object]

WARM_UPS = 2  # tracing and the first touch of memory do not count
WINDOW = 0.03  # seconds; a way that takes less is called several times per repeat


def medians(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Milliseconds of a call, by way.

    Each repeat calls all ways in a new random order, so that whatever else the machine does slows
    all of them alike: their ratios are more reliable than their times.
    """
    calls = {name: _calls_per_window(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    order, shuffled = list(ways), random.Random(0)
    for _ in range(repeats):
        shuffled.shuffle(order)
        for name in order:
            times[name].append(_seconds(ways[name], calls[name]) / calls[name])
    return {name: 1e3 * statistics.median(of_way) for name, of_way in times.items()}


def _calls_per_window(way: Way) -> int:
    _seconds(way, WARM_UPS)
    return max(1, round(WINDOW / _seconds(way, 1)))


def _seconds(way: Way, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        way()
    return time.perf_counter() - start
