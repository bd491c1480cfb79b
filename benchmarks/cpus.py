"""Which CPUs this process and those that it starts may use."""

import contextlib
import os
from collections.abc import Iterator


def allowed() -> list[int] | None:
    """The CPUs in use, None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


# Before anything is bound: afterwards a process sees only what it was bound to.
ALL = allowed()
COUNT = len(ALL) if ALL is not None else os.cpu_count() or 1


def bind(threads: int) -> None:
    """Uses as many CPUs as there are threads."""
    if ALL is not None:
        os.sched_setaffinity(0, ALL[:threads])


@contextlib.contextmanager
def bound(threads: int) -> Iterator[None]:
    """Uses as many CPUs as there are threads; afterwards those that were used before."""
    before = allowed()
    bind(threads)
    try:
        yield
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)
