"""How long `import tf_optim_ext` takes where TensorFlow and Keras are imported already."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from rich.table import Table

from benchmarks import ROOT

Json = dict[str, Any]
GOAL_MS = 50
PROCESSES, QUICK_PROCESSES = 7, 1
VARIANTS = {"with its native library": {}, "without": {"TF_OPTIM_EXT_NATIVE": "off"}}
CODE = """
import benchmarks  # takes the installed package if there is one
import time
import tensorflow as tf
tf.keras
start = time.perf_counter()
import tf_optim_ext
print(time.perf_counter() - start)
"""
Importer = Callable[[dict[str, str]], float]


def seconds(variables: dict[str, str]) -> float:
    """Seconds that the import takes in a process of its own, with environment variables.

    Raises:
        RuntimeError: the import fails.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RuntimeError(last[:200])
    return float(done.stdout)


def processes(quick: bool) -> int:
    """How many processes of each variant are timed."""
    return QUICK_PROCESSES if quick else PROCESSES


def measure(quick: bool, tick: Callable[[str, int], None], take: Importer = seconds) -> list[Json]:
    """Imports in turn in fresh processes; the first of each writes bytecode and fills caches."""
    found = {name: [] for name in VARIANTS}
    notes = dict.fromkeys(VARIANTS, "")
    for _ in range(1 + processes(quick)):
        for name, variables in VARIANTS.items():
            try:
                found[name].append(take(variables))
            except RuntimeError as error:
                notes[name] = str(error)
            tick(name, 1)
    return [
        {"variant": name, "note": notes[name], "ms": [1e3 * value for value in values[1:]]}
        for name, values in found.items()
    ]


def table(imports: list[Json]) -> Table:
    shown = Table(
        "`import tf_optim_ext`",
        "processes",
        "median ms",
        "fastest ms",
        title=f"Import after that of TensorFlow and Keras; the goal is {GOAL_MS} ms",
    )
    for variant in imports:
        times = variant["ms"]
        if times and not variant["note"]:
            numbers = (f"{statistics.median(times):.0f}", f"{min(times):.0f}")
        else:
            numbers = (variant["note"], "")
        shown.add_row(variant["variant"], str(len(times)), *numbers)
    return shown
