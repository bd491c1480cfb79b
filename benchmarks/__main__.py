"""Runs suites of benchmarks: prints tables, writes results and pictures.

python -m benchmarks                          # all suites, some hours
python -m benchmarks --suite=step,train       # some of them
python -m benchmarks --sweeps=models,options  # some of what `step` measures
python -m benchmarks --quick                  # a few minutes, to see that it works
python -m benchmarks --gate                   # compares ratios with benchmarks/thresholds.json
python -m benchmarks --draw                   # pictures of results that are there
"""

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import gate, report, results
from benchmarks.options import Options, add_flags, bind

SUITES = ("step", "train", "embedding", "quality")
QUICK = ("--repeats=3", "--repeat_seconds=0.02")


def parsed(given: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)
    parser.add_argument("--suite", default=",".join(SUITES), help=f"from {', '.join(SUITES)}")
    parser.add_argument("--out", type=Path, help="folder for results and pictures")
    parser.add_argument("--gate", action="store_true", help="only compare ratios with thresholds")
    parser.add_argument("--draw", action="store_true", help="only draw results that are there")
    flags = parser.parse_args(given)
    if flags.quick:
        flags = parser.parse_args([*QUICK, *(sys.argv[1:] if given is None else given)])
    flags.suite = flags.suite.split(",")
    if unknown := set(flags.suite) - {*SUITES}:
        parser.error(f"--suite: {', '.join(unknown)} is none of {', '.join(SUITES)}")
    names = [field.name for field in dataclasses.fields(Options)]
    return flags, Options(**{name: getattr(flags, name) for name in names})


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
            path = results.path_of(folder, name, options.device)
            results.add(path, options, found)
            draw([name], folder, options.device)
    return failed


def main(given: Sequence[str] | None = None) -> None:
    flags, options = parsed(given)
    folder = flags.out or results.RESULTS
    if flags.draw:
        draw(flags.suite, folder, options.device)
        return
    bind(options.threads)
    if flags.gate:
        failed = gate.run(options, report.console())
    else:
        failed = run(flags.suite, options, flags.out if options.quick else folder)
    if failed:
        raise SystemExit("benchmarks: " + "; ".join(failed))


if __name__ == "__main__":
    main()
