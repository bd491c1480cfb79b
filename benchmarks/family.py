"""Native speed of every optimizer, as a part of the memory limit for its own bytes per weight.

Each row is an eager step over some large matrices. The bytes of a step are those that its passes
cannot avoid: what each pass reads and writes, once. The limit is a plain loop over as many arrays,
timed in the same windows and scaled to these bytes; 100 % means that the step is as fast as memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models, peers, pictures, report
from benchmarks.options import Options
from benchmarks.peers import Process

Json = dict[str, Any]

SHAPES, QUICK_SHAPES = ("3*4096x4096",), ("3*512x512",)
GOAL = 75  # percent of the limit
COMMAND = ("benchmarks.family_server",)


def measure(options: Options, console: Console) -> Json:
    try:
        process, about = peers.launch("ours", COMMAND, options)
    except peers.PeerError as error:
        return failed(str(error))
    try:
        found = variants(process, options)
        names = options.shapes or (QUICK_SHAPES if options.quick else SHAPES)
        shapes = [shape for name in names for shape in models.of(name)]
        process.ask("case", shapes=shapes, seed=options.seed)
        rows = {}
        with report.progress(console) as bar:
            # The bar counts windows, and one row more than it is given; here a row is one count.
            bar.start("every optimizer", list(found)[1:], 0)
            for label, variant in found.items():
                rows[label] = measured(process, variant, options)
                bar.tick(label, 1)
    except peers.PeerError as error:
        return failed(str(error))
    finally:
        process.close()
    return {
        "peers": {"ours": about},
        "device": options.device,
        "shapes": list(names),
        "rows": rows,
    }


def failed(reason: str) -> Json:
    """Results of a run that did not begin."""
    return {"rows": {"all": {"failed": True, "note": reason}}}


def variants(process: Process, options: Options) -> Json:
    """From labels to names and arguments, of all optimizers or of those that were asked for."""
    found: Json = {}
    for name in options.optimizers or process.ask("names")["names"]:
        found |= process.ask("variants", name=name)["variants"]
    return found


def measured(process: Process, variant: Json, options: Options) -> Json:
    settings = {name: getattr(options, name) for name in ("windows", "window_seconds", "seed")}
    try:
        return process.ask("measure", **variant, **settings)
    except peers.PeerError as error:  # one optimizer that does not run must not cost the others
        return {"failed": True, "note": str(error)}


def complete(results: Json) -> Iterator[tuple[str, Json]]:
    """Labels and rows that were measured."""
    for label, row in results["rows"].items():
        if not row.get("failed"):
            yield label, row


def tables(results: Json) -> list[Table]:
    table = Table("optimizer", "passes", "bytes per weight", "ms", "GB/s", "of the limit", "route")
    for label, row in results["rows"].items():
        if row.get("failed"):
            table.add_row(label, *[""] * 5, row["note"])
            continue
        table.add_row(
            label,
            str(row["passes"]),
            str(row["bytes_per_weight"]),
            f"{row['milliseconds']:.1f}",
            f"{row['gigabytes_per_second']:.1f}",
            f"{100 * row['part_of_limit']:.0f} %",
            row["route"],
        )
    return [table]


def draw(results: Json, folder: Path) -> list[Path]:
    """Bars of the percentage of the limit, the best on top; none if nothing was measured."""
    rows = sorted(complete(results), key=lambda item: item[1]["part_of_limit"])
    if not rows:
        return []
    plt = pictures.plt
    values = [100 * row["part_of_limit"] for _, row in rows]
    colors = [pictures.OURS if value >= GOAL else pictures.OTHERS for value in values]
    with plt.rc_context(pictures.STYLE):
        figure, axis = plt.subplots(figsize=(7.5, 1 + 0.17 * len(rows)))
        axis.barh([label for label, _ in rows], values, color=colors, height=0.75)
        for place, value in enumerate(values):
            axis.text(1, place, f"{value:.0f}", va="center", fontsize=6.5, color="white")
        axis.axvline(GOAL, color=pictures.LIMIT, linewidth=0.9, linestyle="--")
        axis.axvline(100, color=pictures.LIMIT, linewidth=0.9)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.tick_params(axis="y", labelsize=7, length=0)
        axis.set_xlabel(f"percent of the memory limit; dashed: {GOAL} %")
        axis.set_title("Native steps of every optimizer, for the bytes that each has to move")
        return [pictures.save(figure, folder / "family.png")]


def failures(results: Json) -> list[str]:
    """Rows that failed, or did not run natively where they can."""
    found = []
    for label, row in results["rows"].items():
        if row.get("failed"):
            found.append(f"family, {label}: {row['note']}")
        elif results["device"] == "cpu" and not row["route"].startswith("native"):
            found.append(f"family, {label}: not on the native route, but {row['route'] or 'none'}")
    return found
