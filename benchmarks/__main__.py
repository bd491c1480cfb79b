"""Runs suites of benchmarks: prints tables, writes results and pictures.

python -m benchmarks                          # all suites, some hours
python -m benchmarks --suite=step,train       # some of them
python -m benchmarks --sweeps=models,options  # some of what `step` measures
python -m benchmarks --quick                  # a few minutes, to see that it works
python -m benchmarks --gate                   # compares ratios with benchmarks/thresholds.json
python -m benchmarks --draw                   # pictures of results that are there
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import arguments, gate, models, report, results
from benchmarks.options import Options
from benchmarks.peers import OTHERS, PEERS

SUITES = ("step", "train", "embedding", "quality")
QUICK = ("--repeats=3", "--repeat_seconds=0.02")


def names(check: Callable[[str], object]) -> Callable[[str], tuple[str, ...]]:
    """Reads a list with commas; `check` returns None or raises ValueError for what is wrong."""

    def read(text: str) -> tuple[str, ...]:
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


def like(*patterns: str) -> Callable[[str], tuple[str, ...]]:
    return names(re.compile("|".join(patterns)).fullmatch)


def interpreter(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if name not in PEERS or not separator:
        raise argparse.ArgumentTypeError(f"must be like torch=/path/to/python: {text}")
    return name, path


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, number = found.add_argument, {"type": int}
    switch = {"action": argparse.BooleanOptionalAction}
    add("--suite", type=like(*SUITES), default=SUITES, help=f"from {', '.join(SUITES)}")
    add("--device", choices=("cpu", "gpu"), help="where the weights are")
    add("--sweeps", type=like(r"\w+"), help="of step: see benchmarks/step.py")
    add("--optimizers", type=like(r"[\w. ()]+"), help="names of classes")
    add("--shapes", type=names(models.of), help="of step: models, or like 3*4096x4096+7")
    add("--step_options", type=names(arguments.parsed), help="of step: like none,mask+clip")
    add("--tables", type=like(r"[1-9]\d*x[1-9]\d*"), help="of embedding: like 1000000x64")
    add("--rows", type=like(r"[1-9]\d*"), help="of embedding: of a gradient, with duplicates")
    add("--duplicates", type=like(r"\d\d?"), help="of embedding: percent of the rows")
    add("--peers", type=like(*OTHERS), help=f"from {', '.join(OTHERS)}; may be empty")
    add("--threads", **number, help="of each library, and CPUs in use")
    add("--repeats", **number, help="timed repeats of each row")
    add("--repeat_seconds", type=float, help="a repeat takes at least about this long")
    add("--seed", **number, help="of weights, gradients and order")
    add("--quick", **switch, help="small and few, to see that it works; writes only with --out")
    add("--keep_memory", **switch, help="let malloc keep freed memory: peers allocate a lot")
    add("--python", type=interpreter, action="append", help="peer=path of an interpreter")
    add("--out", type=Path, help="folder for results and pictures")
    add("--gate", action="store_true", help="only compare ratios with their thresholds")
    add("--draw", action="store_true", help="only draw results that are there")
    found.set_defaults(**{**vars(Options()), "peers": OTHERS, "python": []})
    return found


def parsed(given: Sequence[str]) -> tuple[argparse.Namespace, Options]:
    flags = parser().parse_args(given)
    if flags.quick:
        flags = parser().parse_args([*QUICK, *given])
    return flags, Options(**{name: getattr(flags, name) for name in vars(Options())})


def draw(suites: Sequence[str], folder: Path, device: str) -> None:
    for name in suites:
        path = results.path_of(folder, name, device)
        if path.exists():
            suite, suffix = importlib.import_module(f"benchmarks.{name}"), path.stem[len(name) :]
            for picture in suite.draw(results.load(path), folder, suffix):
                print(picture)


def run(suites: Sequence[str], options: Options, folder: Path | None) -> list[str]:
    """Runs suites; returns what failed of this package. Writes nothing without a folder."""
    console, failed = report.console(), []
    for name in suites:
        suite = importlib.import_module(f"benchmarks.{name}")
        found = suite.measure(options, console)
        for table in suite.tables(found):
            console.print(table)
        failed += suite.failures(found)
        if folder is not None:
            results.add(results.path_of(folder, name, options.device), options, found)
            draw([name], folder, options.device)
    return failed


def main(given: Sequence[str]) -> None:
    flags, options = parsed(given)
    folder = flags.out or results.RESULTS
    if flags.draw:
        draw(flags.suite, folder, options.device)
        return
    if cpus := results.allowed_cpus():  # here, and in the processes that are started
        os.sched_setaffinity(0, cpus[: options.threads])
    if flags.gate:
        failed = gate.run(options, report.console())
    else:
        failed = run(flags.suite, options, flags.out if options.quick else folder)
    if failed:
        raise SystemExit("benchmarks: " + "; ".join(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
