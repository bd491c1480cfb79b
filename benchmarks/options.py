"""What a run is asked for, and the flags that say so."""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from benchmarks import arguments, models, peers

Json = dict[str, Any]
Names = tuple[str, ...] | None  # None is what a suite measures by default


@dataclass(frozen=True)
class Options:
    """What suites are told; `FLAGS` says what it means."""

    device: str = "cpu"
    sweeps: Names = None
    optimizers: Names = None
    shapes: Names = None
    step_options: Names = None
    tables: Names = None
    rows: Names = None
    duplicates: Names = None
    peers: tuple[str, ...] = ()
    threads: int = 2
    repeats: int = 15
    repeat_seconds: float = 0.2
    seed: int = 0
    quick: bool = False
    keep_memory: bool = True
    python: tuple[tuple[str, str], ...] = ()

    @property
    def json(self) -> Json:
        """What results state of it."""
        names = ("device", "threads", "repeats", "repeat_seconds", "seed", "quick", "keep_memory")
        return {name: getattr(self, name) for name in names}


def _list_of(check: Callable[[str], object]) -> Callable[[str], Names]:
    """Reads a list with commas; `check` returns None or raises ValueError for what is wrong."""

    def read(text: str) -> Names:
        found = tuple(text.split(",")) if text else ()
        for name in found:
            try:
                right = check(name) is not None
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from error
            if not right:
                raise argparse.ArgumentTypeError(f"{name!r} is not allowed")
        return found

    return read


def _like(pattern: str) -> Callable[[str], Names]:
    return _list_of(re.compile(pattern).fullmatch)


def _interpreter(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if name not in peers.PEERS or not separator:
        raise argparse.ArgumentTypeError(f"must be like torch=/path/to/python: {text}")
    return name, path


_FLAG = {"action": argparse.BooleanOptionalAction}
FLAGS: dict[str, tuple[str, Json]] = {
    "device": ("where the weights are", {"choices": ("cpu", "gpu")}),
    "sweeps": ("of `step`: see benchmarks/step.py", {"type": _like(r"\w+")}),
    "optimizers": ("names of classes", {"type": _like(r"[\w. ()]+")}),
    "shapes": ("of `step`: models, or like 3*4096x4096+7", {"type": _list_of(models.of)}),
    "step_options": ("of `step`: like none,mask+clip", {"type": _list_of(arguments.parsed)}),
    "tables": ("of `embedding`: like 1000000x64", {"type": _like(r"[1-9]\d*x[1-9]\d*")}),
    "rows": ("of `embedding`: of a gradient, with duplicates", {"type": _like(r"[1-9]\d*")}),
    "duplicates": ("of `embedding`: percent of the rows", {"type": _like(r"\d\d?")}),
    "peers": (
        f"from {', '.join(peers.OTHERS)}; may be empty",
        {"type": _like("|".join(peers.OTHERS)), "default": peers.OTHERS},
    ),
    "threads": ("of each library, and CPUs in use", {"type": int}),
    "repeats": ("timed repeats of each row", {"type": int}),
    "repeat_seconds": ("a repeat takes at least about this long", {"type": float}),
    "seed": ("of weights, gradients and order", {"type": int}),
    "quick": ("small and few, to see that it works; writes only with --out", _FLAG),
    "keep_memory": ("let malloc keep freed memory: peers allocate a lot", _FLAG),
    "python": (
        "peer=path of an interpreter; otherwise an environment is made",
        {"type": _interpreter, "action": "append", "default": []},
    ),
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    for field in fields(Options):
        text, more = FLAGS[field.name]
        parser.add_argument(f"--{field.name}", help=text, **{"default": field.default, **more})


def allowed_cpus() -> list[int] | None:
    """The CPUs in use, None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def bind(threads: int) -> None:
    """Uses as many CPUs as there are threads, here and in processes that are started."""
    if (cpus := allowed_cpus()) is not None:
        os.sched_setaffinity(0, cpus[:threads])
