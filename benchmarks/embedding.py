"""Time of one Adam step for the sparse gradient of an embedding table.

python -m benchmarks --suite=embedding --tables=10000000x32 --rows=256,65536 --duplicates=0,50

Rows are Adam as this package has it, `sparse="exact"`, `"lazy"`, `"catch_up"` and lazy with
`row_wise=True`, and as Keras, tf_keras (legacy) and PyTorch (`SparseAdam`) have it. All get the
same gradients, several in turn, so that the rows of a step are not in the caches from the step
before. Keras' Adam squares duplicates one by one, and is only timed. There is no roofline: steps
read rows here and there.
"""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from benchmarks import Json, arguments, process, report, session
from benchmarks.options import Options
from benchmarks.peers import server

tables, failures = report.tables, report.failures

DEFAULTS = {"tables": ("1000000x64",), "rows": ("4096",), "duplicates": ("0",)}
QUICK = {"tables": ("20000x16",), "rows": ("256",), "duplicates": ("50",)}
ROWS = [("ours", mode, kind) for kind in arguments.SPARSE for mode in ("eager", "function")]
ROWS += [("keras", "eager"), ("keras", "function")]
ROWS += [("tf_keras", "legacy_eager"), ("tf_keras", "legacy_function"), ("torch", "sparse")]


def measure(options: Options, console: Console, start: process.Starter = process.start) -> Json:
    found, about = [], {}
    with report.progress(console) as bar:
        for case in cases(options):
            rows = [session.Row(*row) for row in ROWS if row[0] in ("ours", *options.peers)]
            table, seen = session.measured(options, case, rows, bar, start, 0)
            found.append(table)
            about |= seen
    return {"peers": about, "cases": found}


def cases(options: Options) -> Iterator[session.Case]:
    """All combinations; ValueError if a gradient has more distinct rows than its table."""
    given = {
        name: getattr(options, name) or (QUICK if options.quick else DEFAULTS)[name]
        for name in DEFAULTS
    }
    for table in given["tables"]:
        shape = tuple(map(int, table.split("x")))
        for duplicates in map(int, given["duplicates"]):
            for rows in map(int, given["rows"]):
                if server.distinct(rows, duplicates) > shape[0]:
                    raise ValueError(f"a gradient of {rows} rows has too many for {table}")
                yield session.Case("Adam", table, (shape,), (), rows, duplicates)


def draw(results: Json, folder: Path, suffix: str) -> list[Path]:
    return []
