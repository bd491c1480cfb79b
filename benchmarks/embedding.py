"""Time of one optimizer step for the sparse gradient of an embedding table.

    python benchmarks/embedding.py                        # everything, up to an hour
    python benchmarks/embedding.py --tables=1000000x64 --rows=4096 --repeats=0
    python benchmarks/embedding.py --quick                # to see that it works

Rows are Adam as this package has it, `sparse="exact"`, `"lazy"`, `"catch_up"` and lazy with
`row_wise=True`, and as Keras, tf_keras (legacy) and PyTorch (`SparseAdam`) have it. All get the
same gradients, several in turn, so that the rows of a step are not in the caches from the step
before. First each row but Keras' has to agree with Adam in float64 NumPy on a small table, or is
void. Keras' Adam squares repeated rows one by one, and is only timed.

Short windows of all rows are interleaved in random order; where all of them do not fit into
memory, rows are measured in groups, each beside lazy eager steps. Eager steps of Keras and tf_keras
get few windows. PyTorch runs in a process of its own, with the interpreter that --torch_python
names, and measures its windows there.

By default malloc is told to keep freed memory, which is the best case for the rows that allocate
temporaries. Not the blocks of a size with tables for which that could take all memory there is: the
heap would be cut up by smaller ones. Temporary tables are fresh pages in every step then, which the
results say.
"""

import ctypes
import gc
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

# TensorFlow reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import _embedding_cases as cases
import _embedding_report as report
import _embedding_rows as rows_of
import _harness
import _report
import _rows
import keras
import tensorflow as tf
from absl import app, flags, logging
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

FLAGS = flags.FLAGS
flags.DEFINE_list("tables", ["1000000x64", "10000000x32"], "Tables, each rows x width.")
flags.DEFINE_list("rows", ["256", "4096", "65536"], "Rows of a gradient, repeated ones included.")
flags.DEFINE_list("repeats", ["0", "50"], "Percent of the ids that repeat others of the gradient.")
flags.DEFINE_integer("threads", 2, "Threads of TensorFlow and of PyTorch.", lower_bound=1)
flags.DEFINE_integer("windows", 11, "Windows per row.", lower_bound=1)
flags.DEFINE_float("window_seconds", 0.1, "A window is at least about this long.", lower_bound=0)
flags.DEFINE_list("peers", list(rows_of.PEERS), "Which peers to measure; may be empty.")
flags.DEFINE_bool("eager_peers", True, "Measure eager steps of Keras and tf_keras: many seconds.")
flags.DEFINE_string("torch_python", sys.executable, "The Python interpreter that has PyTorch.")
flags.DEFINE_float("memory_gb", 0, "Memory to use; 0 for 3/4 of what is free.", lower_bound=0)
flags.DEFINE_bool("keep_memory", True, "Let malloc keep freed memory: peers allocate a lot.")
flags.DEFINE_integer("seed", 0, "Seed of weights, gradients and order.")
flags.DEFINE_bool("quick", False, "A small table, few short windows.")
flags.DEFINE_string("out", "benchmarks/results/embedding.json", "Results; --quick writes none "
                    "unless this is given.")  # fmt: skip
flags.register_validator(
    "tables", lambda names: all(re.fullmatch(r"[1-9]\d*x[1-9]\d*", n) for n in names),
    "must be like 1000000x64",
)  # fmt: skip
flags.register_validator(
    "rows", lambda counts: all(re.fullmatch(r"[1-9]\d*", n) for n in counts), "must be from 1"
)
flags.register_validator(
    "repeats", lambda shares: all(re.fullmatch(r"\d{1,2}", n) for n in shares), "must be 0 to 99"
)
flags.register_validator(
    "peers", lambda names: set(names) <= set(rows_of.PEERS), f"must be from {list(rows_of.PEERS)}"
)

QUICK = {"tables": ["20000x16"], "rows": ["256", "4096"], "windows": 3, "window_seconds": 0.02}
FEW_WINDOWS = 3
M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4  # from glibc's malloc.h
LARGE_BLOCK = 32 << 20  # the largest threshold that glibc takes
KEPT_TABLES = (
    40  # more than a heap with the temporary tables of Keras and tf_keras was seen to hold
)


def set_up_tensorflow() -> None:
    """Before anything else, as TensorFlow cannot change it later."""
    tf.config.threading.set_intra_op_parallelism_threads(FLAGS.threads)
    tf.config.threading.set_inter_op_parallelism_threads(FLAGS.threads)
    tf.get_logger().setLevel("ERROR")


def quick_settings() -> None:
    for name, value in QUICK.items():
        if not FLAGS[name].present:
            setattr(FLAGS, name, value)


def keep_large_blocks(keep: bool) -> None:
    """Chooses whether malloc, which keeps freed memory, also keeps the largest blocks."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    mallopt(M_MMAP_MAX, 0 if keep else 1 << 16)


def wanted_cases() -> list[cases.Case]:
    """Those of one table next to each other."""
    sizes = [name.split("x") for name in FLAGS.tables]
    found = [
        cases.Case(int(table_rows), int(width), int(rows), int(repeats))
        for table_rows, width in sizes
        for repeats in FLAGS.repeats
        for rows in FLAGS.rows
    ]
    if too_few := [case.name for case in found if case.distinct > case.table_rows]:
        raise app.UsageError(f"the table has fewer rows than its gradient: {too_few}")
    return found


def new_worker() -> rows_of.Worker:
    return rows_of.Worker(FLAGS.torch_python, FLAGS.threads, FLAGS.keep_memory)


def reasons_against(specs: list[rows_of.Spec]) -> dict[str, str]:
    """Why rows cannot be measured, by key: what they need is missing, or what they do is wrong."""
    found = {}
    for spec in specs:
        try:
            reason = check(spec)
        except Exception as error:  # one peer that does not run must not cost the others
            reason = what_failed(error)
        if reason is not None:
            found[spec.key] = reason
    return found


def check(spec: rows_of.Spec) -> str | None:
    if spec.family != "torch":
        return rows_of.what_is_wrong(spec, FLAGS.seed)
    worker = new_worker()
    try:
        return worker.what_is_wrong(spec.kind, FLAGS.seed)
    finally:
        worker.close()


def what_failed(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} not installed"
    if isinstance(error, rows_of.WorkerError):
        return str(error)
    return f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"


class Group:
    """Rows of a case that are timed together, with what they share."""

    def __init__(self, case: cases.Case, table: keras.Variable) -> None:
        self.case, self.table = case, table
        self.given = cases.gradients(case, FLAGS.seed)
        self.tensors = rows_of.tensors(self.given)
        self.optimizers: dict = {}
        self.worker: rows_of.Worker | None = None

    def prepare(self, spec: rows_of.Spec, against: dict[str, str]) -> _rows.Row:
        """Builds a row and runs it often enough to be timed; failures become part of the results.

        Args:
            spec: the row.
            against: why rows cannot be measured, by key.
        """
        row = _rows.Row(spec)
        if spec.key in against:
            row.fail(against[spec.key])
            return row
        try:
            if spec.family == "torch":
                row = self._torch(spec)
            else:
                row = rows_of.build(spec, self.table, self.tensors, self.optimizers)
                _harness.warm_up(row.timed, FLAGS.window_seconds)
                row.take_route()
        except Exception as error:  # as in `reasons_against`
            row.fail(what_failed(error))
        return row

    def _torch(self, spec: rows_of.Spec) -> _rows.Row:
        self.worker = new_worker()
        row = self.worker.build(spec, self.case, FLAGS.seed, cases.checksum(self.given))
        _harness.warm_up(row.timed, FLAGS.window_seconds)
        row.route = f"PyTorch {self.worker.version}"
        row.note = f"steps in a window: {self.worker.take_windows(row.timed)}"
        return row

    def time(self, rows: list[_rows.Row], tick: Callable[[], None]) -> None:
        """Times the rows that are ready, and measures the memory of their steps."""
        rows = [row for row in rows if row.timed is not None]
        few = min(FEW_WINDOWS, FLAGS.windows)
        gc.collect()
        gc.freeze()  # no row shall pay for collecting the graphs of the others
        _harness.interleave([row.timed for row in rows], few, tick, FLAGS.seed)
        fast = [row.timed for row in rows if not row.spec.slow]
        _harness.interleave(fast, FLAGS.windows - few, tick, FLAGS.seed + 1)
        gc.unfreeze()
        for row in rows:  # last, as it takes from the allocator what it kept for the windows
            if row.spec.family != "torch":
                row.peak_growth = _harness.peak_growth(row.timed.step)
                continue
            try:
                row.peak_growth = self.worker.peak_growth()
            except rows_of.WorkerError as error:
                row.fail(str(error))

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()


def measure_group(
    group: Group,
    specs: list[rows_of.Spec],
    against: dict[str, str],
    progress: Progress,
    bar: TaskID,
) -> list[_rows.Row]:
    rows = []
    try:
        for spec in specs:
            rows.append(group.prepare(spec, against))
            progress.advance(bar, 1 if rows[-1].timed else 1 + windows_of(spec))
        group.time(rows, lambda: progress.advance(bar))
    finally:
        group.close()
    return rows


def windows_of(spec: rows_of.Spec) -> int:
    return min(FEW_WINDOWS, FLAGS.windows) if spec.slow else FLAGS.windows


def measure_table(
    members: list[cases.Case],
    specs: list[rows_of.Spec],
    against: dict[str, str],
    kept: bool,
    budget: int,
    progress: Progress,
) -> list[_report.Json]:
    """Measures all cases of one table.

    Args:
        members: the cases.
        specs: the rows.
        against: why rows cannot be measured, by key.
        kept: whether malloc keeps freed memory.
        budget: bytes for what a group needs beside the table.
        progress: where to show it.
    """
    first = members[0]
    keeps_tables = kept and KEPT_TABLES * first.table_bytes <= budget
    if kept:
        keep_large_blocks(keeps_tables)
    groups = rows_of.groups(specs, first.table_bytes, budget - first.table_bytes)
    shape = (first.table_rows, first.width)
    table = keras.Variable(tf.random.stateless_uniform(shape, (FLAGS.seed, 0), -0.05, 0.05))
    found = []
    for case in members:
        steps = sum(1 + windows_of(spec) for group in groups for spec in group)
        bar = progress.add_task(case.name, total=steps)
        rows = []
        for number, members_of_group in enumerate(groups):
            group = Group(case, table)
            measured = measure_group(group, members_of_group, against, progress, bar)
            rows += report.results_of(measured, number)
            del group, measured
            gc.collect()  # optimizers and graphs refer to each other; their slots must go now
        found.append(report.case_result(case, keeps_tables, rows))
    return found


def measure(
    specs: list[rows_of.Spec], against: dict[str, str], kept: bool, console: Console
) -> list[_report.Json]:
    wanted = wanted_cases()
    budget = int(FLAGS.memory_gb * 1e9) or _harness.available_memory() * 3 // 4
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    results = []
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name in dict.fromkeys(case.table for case in wanted):
            members = [case for case in wanted if case.table == name]
            results += measure_table(members, specs, against, kept, budget, progress)
            gc.collect()
    return results


def failures_of_ours(results: list[_report.Json], specs: list[rows_of.Spec]) -> list[str]:
    ours = [spec.key for spec in specs if spec.family == "ours"]
    return [
        f"{result['name']}, {row['label']}: {row['note']}"
        for result in results
        for row in result["rows_of_table"]
        if row["failed"] and row["key"] in ours
    ]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    kept = FLAGS.keep_memory and _harness.keep_freed_memory()
    set_up_tensorflow()
    logging.set_verbosity(logging.ERROR)
    if FLAGS.quick:
        quick_settings()
    wanted_cases()
    console = Console()
    # Into a file or a pipe, rich assumes 80 columns, which would cut the routes short.
    console = console if console.is_terminal else Console(width=140)
    page = _harness.fresh_page_microseconds()
    console.print(f"malloc keeps freed memory: {kept}; a fresh page costs {page:.2f} microseconds")
    specs = rows_of.wanted_specs(FLAGS.peers)
    specs = [spec for spec in specs if FLAGS.eager_peers or not spec.slow]
    against = reasons_against(specs)
    results = measure(specs, against, kept, console)
    for result in results:
        report.print_case(console, result)
    report.print_scaling(console, results)
    goals = report.goals(results)
    report.print_goals(console, goals)
    if not FLAGS.quick or FLAGS["out"].present:
        names = ("threads", "windows", "window_seconds", "peers", "eager_peers", "quick", "seed")
        settings = {name: FLAGS[name].value for name in names}
        settings |= {"malloc_keeps_memory": kept, "fresh_page_microseconds": page}
        content = {
            "cases": results,
            "scaling": report.scaling(results),
            "goals": report.goals_json(goals),
        }
        _report.write(Path(FLAGS.out), settings, content)
        console.print(f"results: {FLAGS.out}")
    if failed := failures_of_ours(results, specs):
        raise SystemExit("embedding: " + "; ".join(failed))


if __name__ == "__main__":
    app.run(main)
