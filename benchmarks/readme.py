"""The figures of the README and of other pages, from the results.

`python -m benchmarks.readme` writes them between the marks of these documents.
"""

from collections.abc import Iterable, Sequence

from benchmarks import ROOT, Json, quality, quality_pictures, results

BEGIN, END = "<!-- benchmarks: the output of python -m benchmarks.readme -->\n", "<!-- end -->\n"
MODELS = {
    "resnet50": "ResNet-50",
    "matrices": "3 matrices of 4096x4096",
    "bert": "BERT-base",
    "mlp": "MLP",
}
TASKS = {
    "mlp": "MLP",
    "convolution": "convolutions",
    "transformer": "transformer",
    "two towers": "two towers with embeddings",
}
MODES = {"fit": "`fit`, default", "function": "`tf.function`", "xla": "XLA"}
VERSIONS = {"tensorflow": "TensorFlow", "keras": "Keras", "torch": "PyTorch", "optax": "optax"}


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def machine(found: Json, cases: Sequence[Json]) -> str:
    """One line: on what, with what, when."""
    runs = {case["run"]: found["runs"][case["run"]] for case in cases}
    run = next(iter(runs.values()))
    used = {
        name: {one["versions"].get(name) for one in runs.values()} - {None} for name in VERSIONS
    }
    versions = ", ".join(f"{VERSIONS[n]} {'/'.join(sorted(v))}" for n, v in used.items() if v)
    if "gpu" in run["machine"]:
        card = run["machine"]["gpu"]
        on = f"an {card['name']} (driver {card['driver']})"
    else:
        on = f"{run['settings']['threads']} cores of an {run['machine']['cpu']} ({run['native']})"
    dates = ", ".join(sorted({date[:10] for date in runs}))
    revisions = ", ".join(sorted({(about["revision"] or "")[:7] for about in runs.values()}))
    return f"{on}; {versions}; {dates}, revision {revisions}."


def steps(found: Json) -> str:
    """Milliseconds of a step of AdamW by row and model, and on what."""
    cases = main_cases(found, MODELS)
    headings = [""]
    for case in cases:
        size = case["weights"]
        size = f"{size / 1e6:.0f} M" if size >= 1e6 else f"{size / 1e3:.0f} k"
        headings.append(f"{MODELS[case['model']]}, {case['variables']} variables ({size} weights)")
    labels = {row["key"]: _label(row) for case in cases for row in case["rows"]}
    rows = []
    for key, label in labels.items():
        times = [next((r for r in case["rows"] if r["key"] == key), {}).get("ms") for case in cases]
        if any(times):
            cells = [label, *(milliseconds(ms) if ms else "" for ms in times)]
            bold = key in ("ours_eager", "ours_function")
            rows.append([f"**{cell}**" if bold and cell else cell for cell in cells])
    table = markdown(headings, rows)
    return f"medians on {machine(found, cases)}\n\n{table}"


def main_cases(found: Json, names: Iterable[str]) -> list[Json]:
    """AdamW over some models, with the most threads that were measured."""
    wanted = {"sweep": "models", "optimizer": "AdamW", "options": []}
    cases = [c for c in found["cases"] if all(c[name] == wanted[name] for name in wanted)]
    cases.sort(key=lambda case: case["threads"])
    by_model = {case["model"]: case for case in cases}
    return [by_model[name] for name in names if name in by_model]


def memory_and_tracing(found: Json) -> str:
    """What a step takes beyond what is held, for each weight, and what tracing it takes."""
    cases = main_cases(found, ("resnet50", "bert"))
    cases += [c for c in found["cases"] if (c["optimizer"], c["model"]) == ("Lamb", "resnet50")]
    by_label = [{row["label"]: row for row in case["rows"] if "ms" in row} for case in cases]
    rows = []
    for label, adamw in by_label[0].items():
        bert, lamb = (rows.get(label, {}) for rows in by_label[1:])
        if "peak_growth_bytes" in adamw:
            both = (row.get("peak_growth_bytes") for row in (adamw, lamb))
            grown = ["" if b is None else f"{b / cases[0]['weights']:.1f}" for b in both]
            traced = bert.get("trace_seconds")
            traced = [f"{traced:.2f}", f"{bert['graph_nodes']:,}"] if traced else ["", ""]
            rows.append([label, *grown, *traced])
    headings = ["", "AdamW, bytes", "Lamb, bytes", "BERT-base, s to trace", "nodes of the graph"]
    return markdown(headings, rows)


def _label(row: Json) -> str:
    if row["key"] == "stream":
        return f"{row['label']}, as many bytes"
    label = row["label"].replace("tf_optim_ext", "this package")
    label = label.replace("tf.function", "`tf.function`")
    if row["key"].startswith("ours"):
        device = row["route"].partition("weights on ")[2].partition(",")[0]
        return f"{label} (route: {row['route'].replace(device, device.rpartition('device:')[2])})"
    runs = row["note"].partition(": there is no")[0] if ": there is no" in row["note"] else ""
    return f"{label} ({runs})" if runs else label


def embeddings(found: Json) -> str:
    """Milliseconds of a step for one table, eagerly and in a function."""
    names = ("model", "rows_of_gradient", "duplicates")
    (case,) = [c for c in found["cases"] if [c[n] for n in names] == ["1000000x64", 4096, 0]]
    by_label: dict[str, dict[str, str]] = {}
    for row in case["rows"]:
        if "ms" in row:
            label, _, mode = row["label"].rpartition(", ")
            mode = mode if mode == "tf.function" else "eager"
            by_label.setdefault(label, {})[mode] = milliseconds(row["ms"])
    modes = ("eager", "tf.function")
    rows = [[label, *(times.get(mode, "") for mode in modes)] for label, times in by_label.items()]
    return markdown(["", "eager", "`tf.function`"], rows)


def training(found: Json) -> str:
    """Milliseconds of a whole training step with Keras' AdamW and with ours, and the ratio."""
    rows = []
    for case in found["cases"]:
        times = {row["key"]: row["ms"] for row in case["rows"] if "ms" in row}
        for kind, addition in (("ours", ""), ("ours_lazy", ', `sparse="lazy"`')):
            if case["optimizer"] == "AdamW" and any(f"{kind}_{mode}" in times for mode in MODES):
                pairs = [(times.get(f"keras_{m}"), times.get(f"{kind}_{m}")) for m in MODES]
                cells = [
                    f"{milliseconds(keras)} / {milliseconds(ours)} = {keras / ours:.1f}"
                    if keras and ours
                    else ""
                    for keras, ours in pairs
                ]
                rows.append([f"{TASKS[case['task']]}, {case['batch']}{addition}", *cells])
    return markdown(["model, batch", *MODES.values()], rows)


def _load(name: str) -> Json:
    return results.load(results.RESULTS / f"{name}.json")


def readme() -> str:
    return "\n\n".join(
        [
            f"Milliseconds per AdamW step in float32, {steps(_load('step'))}",
            "Milliseconds of a whole training step, forward and backward included, with Keras' "
            "AdamW / with this one = how many times faster:",
            training(_load("train")),
            "One Adam step for the sparse gradient of an embedding table, 1,000,000 x 64, with "
            "4,096 rows, in milliseconds:",
            embeddings(_load("embedding")),
        ]
    )


def performance() -> str:
    found = (_load("step"), _load("step_gpu"))
    texts = [f"Milliseconds per AdamW step in float32, {steps(one)}" for one in found]
    texts.append(
        "Memory that one step over ResNet-50 takes beyond what is held, in bytes per weight, and "
        "tracing a step of AdamW over BERT-base, on the CPUs:"
    )
    return "\n\n".join([*texts, memory_and_tracing(found[0])])


def curves() -> str:
    """For each task, how all optimizers ended, the best median first."""
    found, texts = _load("quality"), []
    for task in quality_pictures.tasks_of(found):
        headings = [task.metric if name == "metric" else name for name in quality.HEADINGS]
        texts += [f"## {task.name.capitalize()}", quality.title(task, found)]
        texts.append(markdown(headings, quality.rows(task)))
    return "\n\n".join(texts)


DOCUMENTS = {
    ROOT / "README.md": readme,
    ROOT / "docs" / "performance.md": performance,
    ROOT / "docs" / "learning-curves.md": curves,
}


def updated(content: str, inner: str) -> str:
    """A document with other text between its marks."""
    before, _, rest = content.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{inner}\n{END}{after}"


if __name__ == "__main__":
    for path, inner in DOCUMENTS.items():
        path.write_text(updated(path.read_text(), inner()))
