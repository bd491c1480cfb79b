"""The figures of the README, from the results: `python -m benchmarks.readme`."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, report

Json = dict[str, Any]

README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: the output of python -m benchmarks.readme -->\n", "<!-- end -->\n"
MODELS = {
    "resnet50": "ResNet-50",
    "matrices": "3 matrices of 4096x4096",
    "bert": "BERT-base",
    "mlp": "MLP",
}


def line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([line(headings), line(["---"] * len(headings)), *map(line, rows)])


def machine(results: Json) -> str:
    """One line: on what, with what, when."""
    names = {"tensorflow": "TensorFlow", "keras": "Keras", "torch": "PyTorch", "optax": "optax"}
    versions: Json = {}
    for about in results["peers"].values():
        versions |= about["versions"]
    said = ", ".join(
        f"{shown} {versions[name]}" for name, shown in names.items() if name in versions
    )
    native = results["peers"]["ours"]["native"]
    threads = results["settings"]["threads"]
    return f"{threads} cores of an {results['cpu']} ({native}); {said}; {results['date'][:10]}."


def steps(results: Json, optimizer: str = "AdamW") -> str:
    """Milliseconds of a step by row and model."""
    cases = [case for case in results["cases"] if case["optimizer"] == optimizer]
    cases = [case for name in MODELS for case in cases if case["model"] == name]
    headings = [
        "",
        *(
            f"{MODELS[c['model']]}, {c['variables']} variables ({size(c['weights'])})"
            for c in cases
        ),
    ]
    labels = {row["key"]: _label(row) for case in cases for row in case["rows"]}
    rows = []
    for key, label in labels.items():
        found = [next((r for r in case["rows"] if r["key"] == key), {}) for case in cases]
        if any("ms" in row for row in found):
            cells = [milliseconds(row["ms"]) if "ms" in row else "" for row in found]
            bold = key in ("ours_eager", "ours_function")
            rows.append([f"**{cell}**" if bold and cell else cell for cell in [label, *cells]])
    return markdown(headings, rows)


def size(weights: int) -> str:
    return f"{weights / 1e6:.0f} M weights" if weights >= 1e6 else f"{weights / 1e3:.0f} k weights"


def _label(row: Json) -> str:
    if row["key"] == "limit":
        return "memory limit: a plain loop over as many bytes"
    label = (
        row["label"].replace("tf_optim_ext", "this package").replace("tf.function", "`tf.function`")
    )
    if row["key"].startswith("ours"):
        return f"{label} (route: {row['route']})"
    runs = row["note"].partition(": there is no")[0] if ": there is no" in row["note"] else ""
    return f"{label} ({runs})" if runs else label


def embeddings(results: Json) -> str:
    """Milliseconds of a step for one table, eagerly and in a function."""
    (case,) = [
        case
        for case in results["cases"]
        if (case["table_rows"], case["rows"], case["repeats"]) == (1_000_000, 4096, 0)
    ]
    found: dict[str, dict[str, str]] = {}
    for row in case["rows_of_table"]:
        if "ms" in row:
            label, _, mode = row["label"].partition(", ")
            found.setdefault(label, {}).setdefault(mode or "eager", milliseconds(row["ms"]))
    rows = [
        [label, modes.get("eager", ""), modes.get("tf.function", "")]
        for label, modes in found.items()
    ]
    return markdown(["", "eager", "`tf.function`"], rows)


def text(folder: Path = report.RESULTS) -> str:
    """Everything between the marks of the README."""

    def load(name: str) -> Json:
        return json.loads((folder / f"{name}.json").read_text())

    step, embedding = load("step"), load("embedding")
    return "\n\n".join(
        [
            "Milliseconds per AdamW step in float32, medians of one run on " + machine(step),
            steps(step),
            "One Adam step for the sparse gradient of an embedding table, 1,000,000 x 64, with "
            "4,096 rows, in milliseconds:",
            embeddings(embedding),
        ]
    )


def updated(content: str, inner: str) -> str:
    """A document with other text between its marks."""
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{inner}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(), text()))
