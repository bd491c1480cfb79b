"""The figures of the README and of the learning curves, from the results.

`python -m benchmarks.readme` writes them between the marks of these documents.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import ROOT, quality, quality_pictures, report

Json = dict[str, Any]

README = ROOT / "README.md"
CURVES = ROOT / "docs" / "learning-curves.md"
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


TASKS = {
    "mlp": "MLP",
    "convolution": "convolutions",
    "transformer": "transformer",
    "two towers": "two towers with embeddings",
}
MODES = {"fit": "`fit`, default", "function": "`tf.function`", "xla": "XLA"}


def training(results: Json, optimizer: str = "AdamW") -> str:
    """Milliseconds of a whole training step with Keras' optimizer and with ours, and the ratio."""
    rows = []
    for case in results["cases"]:
        if case["optimizer"] != optimizer:
            continue
        found = {row["key"]: row for row in case["rows"] if "ms" in row}
        for kind, addition in (("ours", ""), ("ours_lazy", ', `sparse="lazy"`')):
            if any(f"{kind}_{mode}" in found for mode in MODES):
                cells = [_both(found, kind, mode) for mode in MODES]
                rows.append([f"{TASKS[case['task']]}, {case['batch']}{addition}", *cells])
    return markdown(["model, batch", *MODES.values()], rows)


def _both(found: dict[str, Json], kind: str, mode: str) -> str:
    keras, ours = found.get(f"keras_{mode}"), found.get(f"{kind}_{mode}")
    if not keras or not ours:
        return ""
    times = f"{milliseconds(keras['ms'])} / {milliseconds(ours['ms'])}"
    return f"{times} = {ours['speedup']:.1f}"


def learning(results: Json) -> str:
    """For each task, how all optimizers ended, the best median first."""
    seeds = len(results["protocol"]["test_seeds"])
    return "\n\n".join(_of_task(task, seeds) for task in results["tasks"])


def _of_task(task: Json, seeds: int) -> str:
    edges = {"low": " (lowest)", "high": " (highest)", None: ""}
    rows = []
    for row in sorted(task["optimizers"], key=quality_pictures.by_loss):
        *cells, rate = quality.cells(row)
        rows.append([*cells, f"{rate}{edges[row['at_edge']]}"])
    headings = ["optimizer", "test loss", "quartiles", task["metric"], "steps", "learning rate"]
    data = task["data"][:1].upper() + task["data"][1:]
    return (
        f"## {task['name'].capitalize()}\n\n"
        f"{data}; {task['model']} of {task['weights']:,} weights; {task['steps']} steps of "
        f"{task['batch_size']} examples; medians of {seeds} seeds. Test loss: {task['loss']}. "
        f"Steps: until the validation loss is {task['target']}.\n\n{markdown(headings, rows)}"
    )


def _load(name: str) -> Json:
    return json.loads((report.RESULTS / f"{name}.json").read_text())


def text() -> str:
    """Everything between the marks of the README."""
    step = _load("step")
    return "\n\n".join(
        [
            "Milliseconds per AdamW step in float32, medians of one run on " + machine(step),
            steps(step),
            "Milliseconds of a whole training step, forward and backward included, with Keras' "
            "AdamW / with this one = how many times faster:",
            training(_load("train")),
            "One Adam step for the sparse gradient of an embedding table, 1,000,000 x 64, with "
            "4,096 rows, in milliseconds:",
            embeddings(_load("embedding")),
        ]
    )


def curves() -> str:
    """Everything between the marks of the page of learning curves."""
    return learning(_load("quality"))


DOCUMENTS = {README: text, CURVES: curves}


def updated(content: str, inner: str) -> str:
    """A document with other text between its marks."""
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{inner}\n{END}{after}"


if __name__ == "__main__":
    for path, inner in DOCUMENTS.items():
        path.write_text(updated(path.read_text(), inner()))
