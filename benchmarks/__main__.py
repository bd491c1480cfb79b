"""Runs suites of benchmarks: prints tables, writes results and pictures.

python -m benchmarks                          # all suites, some hours
python -m benchmarks --suite=step,train       # some of them
python -m benchmarks --quick                  # a few minutes, to see that it works
python -m benchmarks --gate                   # compares ratios with benchmarks/floors.json
python -m benchmarks --draw                   # pictures of results that are there
"""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from types import ModuleType

from absl import app, flags

from benchmarks import cpus, gate, models, peers, report
from benchmarks.options import Options

# In this order; the first ones need least time.
SUITES = (
    "step",
    "trace",
    "memory",
    "scaling",
    "optimizers",
    "train",
    "embedding",
    "family",
    "quality",
)
QUICK = {"windows": 3, "window_seconds": 0.02}

FLAGS = flags.FLAGS
flags.DEFINE_list("suite", list(SUITES), f"From {', '.join(SUITES)}.")
flags.DEFINE_enum("device", "cpu", ("cpu", "gpu"), "Where the weights are.")
flags.DEFINE_list("optimizers", None, "Names of classes; default: those of each suite.")
flags.DEFINE_list("shapes", None, "Models of `step`, or shapes such as 3*4096x4096+7.")
flags.DEFINE_list("tables", None, "Of `embedding`: tables, each rows x width, like 1000000x64.")
flags.DEFINE_list("rows", None, "Of `embedding`: rows of a gradient, repeated ones included.")
flags.DEFINE_list("repeats", None, "Of `embedding`: percent of the rows that repeat others.")
flags.DEFINE_bool(
    "eager_peers", True, "Of `embedding`: measure eager steps of Keras: many seconds."
)
flags.DEFINE_list("peers", list(peers.OTHERS), "Which peers to measure; may be empty.")
flags.DEFINE_integer("threads", 2, "Threads of each library, and CPUs in use.", lower_bound=1)
flags.DEFINE_integer("windows", 15, "Windows of each row.", lower_bound=1)
flags.DEFINE_float("window_seconds", 0.2, "A window is at least about this long.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Seed of weights, gradients and order.")
flags.DEFINE_bool("quick", False, "Small and few, to see that it works; writes no results unless "
                  "--out is given.")  # fmt: skip
flags.DEFINE_bool("keep_memory", True, "Let malloc keep freed memory: peers allocate a lot.")
flags.DEFINE_multi_string("python", [], "name=path: the interpreter of a peer; otherwise an "
                          "environment is made for it.")  # fmt: skip
flags.DEFINE_string("out", str(report.RESULTS), "Folder for results and pictures.")
flags.DEFINE_bool("gate", False, "Only compare some ratios with the floors that they must reach.")
flags.DEFINE_bool("draw", False, "Only draw pictures of the results in --out.")
flags.register_validator(
    "suite", lambda names: set(names) <= set(SUITES), f"must be from {', '.join(SUITES)}"
)
flags.register_validator(
    "peers", lambda names: set(names) <= set(peers.OTHERS), f"must be from {list(peers.OTHERS)}"
)
flags.register_validator(
    "python",
    lambda given: all(text.partition("=")[0] in peers.PEERS and "=" in text for text in given),
    f"must be like torch=/path/to/python, for one of {list(peers.PEERS)}",
)


@flags.validator("shapes")
def _are_shapes(texts: list[str] | None) -> bool:
    for text in texts or ():
        try:
            models.of(text)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from error
    return True


for _name, _form, _message in (
    ("tables", r"[1-9]\d*x[1-9]\d*", "must be like 1000000x64"),
    ("rows", r"[1-9]\d*", "must be from 1"),
    ("repeats", r"\d{1,2}", "must be 0 to 99"),
):
    flags.register_validator(
        _name,
        lambda given, form=_form: all(re.fullmatch(form, text) for text in given or ()),
        _message,
    )


def options() -> Options:
    """What the flags say."""
    given = {
        field.name: FLAGS[field.name].value
        for field in dataclasses.fields(Options)
        if field.name in FLAGS
    }
    if FLAGS.quick:
        given.update({n: value for n, value in QUICK.items() if not FLAGS[n].present})
    for name in ("optimizers", "shapes", "tables", "rows", "repeats", "peers"):
        given[name] = tuple(given[name]) if given[name] is not None else None
    return Options(**given, pythons=dict(text.split("=", 1) for text in FLAGS.python))


def suite(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def draw(names: list[str], folder: Path) -> None:
    for name in names:
        path = folder / f"{name}.json"
        if path.exists():
            for picture in suite(name).draw(json.loads(path.read_text()), folder):
                print(picture)


def run(names: list[str], wanted: Options, folder: Path | None) -> list[str]:
    """Runs suites; returns what failed of this package. Writes nothing without a folder."""
    console, failed = report.console(), []
    for name in names:
        module = suite(name)
        results = module.measure(wanted, console)
        for table in module.tables(results):
            console.print(table)
        failed += getattr(module, "failures", lambda results: [])(results)
        if folder is not None:
            report.write(folder / f"{name}.json", wanted, results)
            draw([name], folder)
    return failed


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    folder = Path(FLAGS.out)
    if FLAGS.draw:
        draw(FLAGS.suite, folder)
        return
    wanted = options()
    cpus.bind(wanted.threads)
    if FLAGS.gate:
        failed = gate.run(wanted, report.console())
    else:
        writes = not wanted.quick or FLAGS["out"].present
        failed = run(FLAGS.suite, wanted, folder if writes else None)
    if failed:
        raise SystemExit("benchmarks: " + "; ".join(failed))


if __name__ == "__main__":
    app.run(main)
