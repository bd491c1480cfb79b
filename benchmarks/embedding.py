"""Time of one optimizer step for the sparse gradient of an embedding table.

python -m benchmarks --suite=embedding                          # up to an hour
python -m benchmarks --suite=embedding --tables=1000000x64 --rows=4096 --repeats=0

Rows are Adam as this package has it, `sparse="exact"`, `"lazy"`, `"catch_up"` and lazy with
`row_wise=True`, and as Keras, tf_keras (legacy) and PyTorch (`SparseAdam`) have it. All get the
same gradients, several in turn, so that the rows of a step are not in the caches from the step
before. First each row but Keras' has to agree with Adam in float64 NumPy on a small table, or is
void. Keras' Adam squares repeated rows one by one, and is only timed.

Windows of all rows are interleaved in random order; where all of them do not fit into memory, rows
are measured in groups, each beside lazy eager steps. Rows of TensorFlow share a process and a
table; PyTorch has its own.

By default malloc is told to keep freed memory, which is the best case for the rows that allocate
temporaries. Not the blocks of a size with tables for which that could take all memory there is: the
heap would be cut up by smaller ones. Temporary tables are fresh pages in every step then, which the
results say.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import embedding_cases as cases
from benchmarks import embedding_report, embedding_rows, peers, report, session, timing
from benchmarks.embedding_rows import KINDS, Row
from benchmarks.options import Options
from benchmarks.peers import Process

Json = dict[str, Any]

DEFAULTS = {
    "tables": ("1000000x64", "10000000x32"),
    "rows": ("256", "4096", "65536"),
    "repeats": ("0", "50"),
}
QUICK = {"tables": ("20000x16",), "rows": ("256", "4096"), "repeats": ("50",)}
MEMORY_IN_USE = 0.75  # part of what is free
# More than a heap with the temporary tables of Keras and tf_keras was seen to hold.
KEPT_TABLES = 40
PROCESSES = {
    "tensorflow": ("ours", "benchmarks.embedding_tensorflow"),
    "torch": ("torch", "benchmarks.embedding_torch"),
}


def start(name: str, options: Options) -> tuple[Process, Json]:
    """Starts one of `PROCESSES`; see `peers.start`."""
    peer, module = PROCESSES[name]
    return peers.launch(peer, (module,), options)


def wanted_cases(options: Options) -> list[cases.Case]:
    """Those of one table next to each other.

    Raises:
        ValueError: a gradient has more distinct rows than its table.
    """
    given = {
        name: getattr(options, name) or (QUICK if options.quick else DEFAULTS)[name]
        for name in DEFAULTS
    }
    found = [
        cases.Case(*map(int, table.split("x")), int(rows), int(repeats))
        for table in given["tables"]
        for repeats in given["repeats"]
        for rows in given["rows"]
    ]
    if too_few := [case.name for case in found if case.distinct > case.table_rows]:
        raise ValueError(
            f"a gradient has more distinct rows than its table: {'; '.join(too_few)}. Give "
            "--tables with more rows, or fewer --rows."
        )
    return found


@dataclass(frozen=True)
class TableCase(session.Case):
    """Adam on one table."""

    table: cases.Case = cases.CHECKED
    keeps_tables: bool = True


def table_case(case: cases.Case, options: Options, budget: int) -> TableCase:
    keeps_tables = options.keep_memory and KEPT_TABLES * case.table_bytes <= budget
    shapes = ((case.table_rows, case.width),)
    return TableCase("Adam", case.name, shapes, options.seed, case, keeps_tables)


class Session(session.Session):
    """Processes with tables. There is no limit of the memory: steps read rows here and there."""

    def __init__(self, options: Options) -> None:
        super().__init__(options, start)

    def _program(self, optimizer: str) -> Json:
        return {}

    def _check(self, row: Row, case: TableCase) -> None:
        """Compares steps over a small table with NumPy's."""
        with self._failing(row):
            table = self._ask(row, "check_table", mode=row.mode, seed=case.seed)["table"]
            reference = KINDS[row.kind].reference
            if reference is None:
                row.note = "not checked: squares repeated rows one by one"
            elif reason := cases.what_is_wrong(reference, np.array(table), case.seed):
                row.fail(reason)

    def _make_case(self, name: str, case: TableCase) -> None:
        try:
            found = self.process(name).ask(
                "table",
                case=dataclasses.asdict(case.table),
                seed=case.seed,
                keep_large_blocks=case.keeps_tables,
            )
        except peers.PeerError as error:
            self._reasons[name] = str(error)
            return
        if found["checksum"] != cases.checksum(cases.gradients(case.table, case.seed)):
            self._reasons[name] = "void: its NumPy makes other gradients of the seed"

    def _build(self, row: Row, case: TableCase, traces: int) -> None:
        super()._build(row, case, traces)
        if not row.lives or KINDS[row.kind].peer != "ours":
            return
        if not row.about["route"]:
            row.fail("void: the optimizer names no route")
        elif self.options.device == "cpu" and not row.about["route"].startswith("native"):
            row.note = "expected: native"


def measure(options: Options, console: Console) -> Json:
    about: Json = {}
    found = []
    with report.progress(console) as bar:
        for case in wanted_cases(options):
            budget = int(MEMORY_IN_USE * timing.available_memory())
            wanted = table_case(case, options, budget)
            kinds = embedding_rows.wanted_kinds(options)
            groups = embedding_rows.groups(kinds, case.table_bytes, budget - case.table_bytes)
            parts = []
            for group in groups:
                rows = embedding_rows.rows_of(group, options)
                # The bar counts one row more, the limit of the memory.
                bar.start(case.name, rows[1:], options.windows)
                with Session(options) as own:
                    parts.append(own.measure(wanted, rows, bar.tick))
                    about |= own.about
            found.append(case_result(wanted, parts))
    goals = [goal.json for goal in embedding_report.goals(found)]
    scaling = embedding_report.scaling(found)
    return {"peers": about, "cases": found, "scaling": scaling, "goals": goals}


def case_result(case: TableCase, parts: Sequence[Json]) -> Json:
    """What is written of a case; `parts` are the results of its groups."""
    rows = [{**row, "group": n} for n, part in enumerate(parts) for row in part["rows"]]
    return {
        **dataclasses.asdict(case.table),
        "name": case.model,
        "lazy_memory_bytes": embedding_report.FLOATS_PER_ELEMENT * case.table.gradient_bytes,
        "malloc_keeps_tables": case.keeps_tables,
        "rows_of_table": rows,
    }


def tables(results: Json) -> list[Table]:
    return [
        *map(embedding_report.times_table, results["cases"]),
        *embedding_report.by_rows(results["cases"]),
        *embedding_report.scaling_table(results["scaling"]),
        embedding_report.goals_table(results["goals"]),
    ]


def draw(results: Json, folder: Path) -> list[Path]:
    return [embedding_report.picture(results["cases"], folder / "embedding.png")]


def failures(results: Json) -> list[str]:
    """Rows of ours that failed."""
    return [
        f"{case['name']}, {row['label']}: {row['note']}"
        for case in results["cases"]
        for row in case["rows_of_table"]
        if row["failed"] and KINDS[embedding_rows.split(row["key"])[0]].peer == "ours"
    ]
