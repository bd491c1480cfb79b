"""Files of results: summaries of cases, each with the run that it comes from.

    {"runs": {DATE: {"command", "revision", "machine", "versions", "settings", ...}},
     "cases": [{"run": DATE, ..., "rows": [{"ms", "quartiles_ms", "repeats", ...}]}]}

A new run replaces the cases that it measured again, and leaves the others as they are, also those
of which it measured nothing.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, Json, timing
from benchmarks.options import Options

RESULTS = ROOT / "benchmarks" / "results"
# What cases are told apart by; no suite has all of these.
IDENTITY = ("sweep", "optimizer", "model", "options", "threads", "rows_of_gradient", "duplicates")
IDENTITY += ("task", "batch")
LINE = 400  # characters, of what is written on one line


def rounded(number: float) -> float:
    return float(f"{number:.9g}")


def summary(seconds: Sequence[float]) -> Json:
    """The median of repeats in milliseconds, their quartiles, and how many there were."""
    low, middle, high = (rounded(1e3 * value) for value in timing.quartiles(seconds))
    return {"ms": middle, "quartiles_ms": [low, high], "repeats": len(seconds)}


def path_of(folder: Path, suite: str, device: str) -> Path:
    """GPU results lie beside those of CPUs."""
    return folder / f"{suite}{'' if device == 'cpu' else f'_{device}'}.json"


def load(path: Path) -> Json:
    return json.loads(path.read_text()) if path.exists() else {"runs": {}, "cases": []}


def add(path: Path, options: Options, found: Json) -> None:
    """Writes what a suite has measured; `found["peers"]` is what their processes said."""
    new = json.loads(json.dumps({name: found[name] for name in found if name != "peers"}))
    write(path, merged(load(path), run_of(options, found["peers"]), new))


def run_of(options: Options, peers: Json) -> Json:
    """What a run states of itself."""
    versions: Json = {"python": platform.python_version()}
    for about in peers.values():
        versions |= about.get("versions", {})
    machine = {
        "cpu": _cpu(),
        "cpus": len(allowed_cpus() or range(options.threads)),
        "system": platform.platform(),
    }
    if gpus := [about["gpu"] for about in peers.values() if "gpu" in about]:
        machine["gpu"] = gpus[0]
    ours = peers.get("ours", {})
    return {
        "command": _command(sys.argv[1:]),
        "revision": _revision(),
        "machine": machine,
        "versions": versions,
        "settings": options.json,
        **{name: ours[name] for name in ("native", "malloc_keeps_memory") if name in ours},
    }


def merged(old: Json, run: Json, new: Json) -> Json:
    """Results with the cases of a new run in the place of the same ones of earlier runs."""
    if old.get("protocol", new.get("protocol")) != new.get("protocol"):
        old = {"runs": {}, "cases": []}  # of the suite `quality`: not comparable
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    measured = [c for c in new["cases"] if "rows" not in c or any("ms" in r for r in c["rows"])]
    cases = [{"run": date, **case} for case in measured]
    again = {_identity(case) for case in cases}
    cases = [case for case in old["cases"] if _identity(case) not in again] + cases
    runs, used = {**old["runs"], date: run}, {case["run"] for case in cases}
    runs = {date: runs[date] for date in sorted(used)}
    return {**old, **new, "runs": runs, "cases": cases}


def _identity(case: Json) -> str:
    return json.dumps([case.get(name) for name in IDENTITY])


def write(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_text(content) + "\n")


def _text(value: Any, indent: int = 0) -> str:
    """JSON of which what fits is on one line."""
    line = json.dumps(value)
    if indent + len(line) <= LINE or not isinstance(value, (dict, list)) or not value:
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_text(item, indent + 1)}" for key, item in value.items()]
    else:
        items = [_text(item, indent + 1) for item in value]
    ends = "{}" if isinstance(value, dict) else "[]"
    return f"{ends[0]}\n{inner}" + f",\n{inner}".join(items) + f"\n{' ' * indent}{ends[1]}"


def _command(arguments: Sequence[str]) -> str:
    """What was run, without the paths of this machine."""
    return re.sub(r" --?(out|python)[= ]\S+", "", " ".join(["python -m benchmarks", *arguments]))


def _revision() -> str | None:
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    return f"{commit} with changes" if commit and changed else commit


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def allowed_cpus() -> list[int] | None:
    """The CPUs in use, None where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()
