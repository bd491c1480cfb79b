"""What is printed."""

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import Json

Column = tuple[str, str, str, float]  # heading, name in a row, form, divisor


def console() -> Console:
    found = Console()
    # Into a file or a pipe, rich assumes 80 columns, which would cut the routes short.
    return found if found.is_terminal else Console(width=160)


class Bar(Progress):
    """One line for each case."""

    def begin(self, name: str, total: int) -> None:
        self.case = self.add_task(name, total=total)

    def tick(self, count: int) -> None:
        self.advance(self.case, count)


def progress(console: Console) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Bar(*columns, TimeElapsedColumn(), console=console)


STEP_COLUMNS = (
    ("ratio", "ratio", ".2f", 1),
    ("GB/s", "gigabytes_per_second", ".1f", 1),
    ("% roof", "percent_of_roofline", ".0f", 1),
    ("state MiB", "state_bytes", ".4g", 2**20),
    ("growth MiB", "peak_growth_bytes", ".4g", 2**20),
    ("trace s", "trace_seconds", ".2f", 1),
    ("nodes", "graph_nodes", ".0f", 1),
)
STEP_CAPTION = (
    "ratio: to the first row. % roof: of the bandwidth of STREAM. growth: most memory that a step "
    "takes beyond what is held. trace, nodes: of a `tf.function`."
)


def tables(results: Json) -> list[Table]:
    return [steps(case) for case in results["cases"]]


def steps(case: Json) -> Table:
    """The table of a case as `session.result_of` makes it."""
    title = (
        f"{' + '.join([case['optimizer'], *case['options']])} on {case['model']}: "
        f"{case['variables']} variables, {case['weights'] / 1e6:.3g} M weights"
    )
    if "bytes_per_weight" in case:
        title += f", {case['bytes_per_weight']:g} bytes each"
    if "rows_of_gradient" in case:
        title += f"; {case['rows_of_gradient']:,} rows, {case['duplicates']} % duplicates"
    return table(f"{title}; {case['threads']} threads", STEP_COLUMNS, case["rows"], STEP_CAPTION)


def table(title: str, columns: Sequence[Column], rows: Sequence[Json], caption: str) -> Table:
    found = Table(title=title, caption=caption)
    found.add_column("row", no_wrap=True)
    for heading in ("ms/step", "quartiles", *(column[0] for column in columns)):
        found.add_column(heading, justify="right", no_wrap=True)
    found.add_column("route", min_width=24)
    for row in rows:
        where = " - ".join(text for text in (row["route"], row["note"]) if text)
        low, high = row.get("quartiles_ms", (None, None))
        spread = "" if low is None else f"{low:.3g} to {high:.3g}"
        cells = [number(row.get(name), form, part) for _, name, form, part in columns]
        found.add_row(row["label"], number(row.get("ms"), ".4g"), spread, *cells, where)
    return found


def number(value: float | None, form: str, divisor: float = 1) -> str:
    return "" if value is None else format(value / divisor, form)


def failures(results: Json) -> list[str]:
    """Rows of ours that failed."""
    return [
        f"{case['optimizer']} on {case.get('model', case.get('task'))}, {row['label']}: "
        f"{row['note']}"
        for case in results["cases"]
        for row in case["rows"]
        if row["failed"] and row["key"].startswith("ours")
    ]
