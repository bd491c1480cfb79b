"""Runs suites of benchmarks: prints tables, writes results and pictures.

python -m benchmarks                          # all suites, some hours
python -m benchmarks --suite=step,train       # some of them
python -m benchmarks --sweeps=models,options  # some of what `step` measures
python -m benchmarks --quick                  # a few minutes, to see that it works
python -m benchmarks --gate                   # compares ratios with benchmarks/thresholds.json
python -m benchmarks --draw                   # pictures of results that are there
"""

import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from benchmarks import arguments, gate, models, report, results
from benchmarks.options import Options
from benchmarks.peers import OTHERS, PEERS

SUITES = ("step", "train", "embedding", "quality")
QUICK = {"repeats": 3, "repeat_seconds": 0.02}
# Of their own: the examples, which tests import as well, define flags of the same names.
FLAGS = flags.FlagValues()


class Names(flags.ArgumentParser):
    """A list with commas; `check` returns None or raises ValueError for what is wrong."""

    def __init__(self, check: Callable[[str], object]) -> None:
        self._check = check

    def parse(self, text: str | tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(text.split(",")) if text and isinstance(text, str) else tuple(text)
        for name in names:
            if self._check(name) is None:
                raise ValueError(f"{name!r} is not allowed")
        return names


def like(*patterns: str) -> Callable[[str], object]:
    return re.compile("|".join(patterns)).fullmatch


def define_names(name: str, check: Callable[[str], object], text: str, default=None) -> None:
    serializer = flags.ListSerializer(",")
    flags.DEFINE(Names(check), name, default, text, FLAGS, serializer)


DEFAULT = Options()
define_names("suite", like(*SUITES), f"from {', '.join(SUITES)}", SUITES)
flags.DEFINE_enum(
    "device", DEFAULT.device, ("cpu", "gpu"), "where the weights are", flag_values=FLAGS
)
define_names("sweeps", like(r"\w+"), "of step: see benchmarks/step.py")
define_names("optimizers", like(r"[\w. ()]+"), "names of classes")
define_names("shapes", models.of, "of step: models, or like 3*4096x4096+7")
define_names("step_options", arguments.parsed, "of step: like none,mask+clip")
define_names("tables", like(r"[1-9]\d*x[1-9]\d*"), "of embedding: like 1000000x64")
define_names("rows", like(r"[1-9]\d*"), "of embedding: of a gradient, with duplicates")
define_names("duplicates", like(r"\d\d?"), "of embedding: percent of the rows")
define_names("peers", like(*OTHERS), f"from {', '.join(OTHERS)}; may be empty", OTHERS)
flags.DEFINE_integer(
    "threads", DEFAULT.threads, "of each library, and CPUs in use", 1, flag_values=FLAGS
)
flags.DEFINE_integer("repeats", DEFAULT.repeats, "timed repeats of each row", 1, flag_values=FLAGS)
flags.DEFINE_float(
    "repeat_seconds", DEFAULT.repeat_seconds, "a repeat takes about this long", 0, flag_values=FLAGS
)
flags.DEFINE_integer("seed", DEFAULT.seed, "of weights, gradients and order", flag_values=FLAGS)
flags.DEFINE_bool(
    "quick", False, "small and few, to see that it works; writes only with --out", flag_values=FLAGS
)
flags.DEFINE_bool(
    "keep_memory", True, "let malloc keep freed memory: peers allocate a lot", flag_values=FLAGS
)
flags.DEFINE_multi_string("python", [], "peer=path of an interpreter", flag_values=FLAGS)
flags.DEFINE_string("out", None, "folder for results and pictures", flag_values=FLAGS)
flags.DEFINE_bool("gate", False, "only compare ratios with their thresholds", flag_values=FLAGS)
flags.DEFINE_bool("draw", False, "only draw results that are there", flag_values=FLAGS)
flags.register_validator(
    "python",
    lambda given: all(text.partition("=")[0] in PEERS and "=" in text for text in given),
    f"must be like torch=/path/to/python, for one of {', '.join(PEERS)}",
    flag_values=FLAGS,
)


def options(values: flags.FlagValues) -> Options:
    """What flags say."""
    given = {field.name: values[field.name].value for field in dataclasses.fields(Options)}
    if values.quick:
        given.update({name: x for name, x in QUICK.items() if not values[name].present})
    pythons = tuple(tuple(text.split("=", 1)) for text in values.python)
    return Options(**{**given, "python": pythons})


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


def execute(values: flags.FlagValues) -> None:
    wanted = options(values)
    out = values.out and Path(values.out)
    folder = out or results.RESULTS
    if values.draw:
        draw(values.suite, folder, wanted.device)
        return
    if cpus := results.allowed_cpus():  # here, and in the processes that are started
        os.sched_setaffinity(0, cpus[: wanted.threads])
    if values.gate:
        failed = gate.run(wanted, report.console())
    else:
        failed = run(values.suite, wanted, out if wanted.quick else folder)
    if failed:
        raise SystemExit("benchmarks: " + "; ".join(failed))


def parse(given: Sequence[str]) -> Sequence[str]:
    """Reads the flags; returns the other arguments."""
    if "--help" in given:
        raise SystemExit(f"{__doc__}\n{FLAGS.get_help()}")
    try:
        return FLAGS(given)
    except flags.Error as error:
        raise SystemExit(f"{error}\nTry --help.") from error


def main(given: Sequence[str]) -> None:
    if len(given) > 1:
        raise SystemExit(f"Unexpected arguments: {given[1:]}\nTry --help.")
    execute(FLAGS)


if __name__ == "__main__":
    main(parse(sys.argv))
