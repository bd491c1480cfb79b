"""The pages made from docstrings, how they are made, and the page about TensorFlow Addons."""

import importlib.util
import inspect
import pathlib
import re
import runpy

import numpy as np
import pytest
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import __main__, optimizers

pytestmark = pytest.mark.once

DOCS = pathlib.Path(__file__).parent.parent / "docs"
MIGRATION = (DOCS / "migration-from-tensorflow-addons.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```python\n(.*?)```", MIGRATION, re.DOTALL)
# Of tensorflow_addons.optimizers 0.23.0, all.
ADDONS = (
    "AdaBelief",
    "AdamW",
    "AveragedOptimizerWrapper",
    "COCOB",
    "ConditionalGradient",
    "CyclicalLearningRate",
    "DecoupledWeightDecayExtension",
    "ExponentialCyclicalLearningRate",
    "KerasLegacyOptimizer",
    "LAMB",
    "LazyAdam",
    "Lookahead",
    "MovingAverage",
    "MultiOptimizer",
    "NovoGrad",
    "ProximalAdagrad",
    "RectifiedAdam",
    "SGDW",
    "SWA",
    "Triangular2CyclicalLearningRate",
    "TriangularCyclicalLearningRate",
    "Yogi",
    "extend_with_decoupled_weight_decay",
)


def _load_generator():
    spec = importlib.util.spec_from_file_location("generate_pages", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _load_generator()
PAGES = generate.pages()
each_optimizer = pytest.mark.parametrize("cls", optimizers.ALL, ids=lambda cls: cls.__name__)


# ------------------------------------------------------------------------------------- the pages


def test_pages_on_disk_are_the_generated_ones():
    on_disk = {p.name: p.read_text(encoding="utf-8") for p in generate.PAGES.glob("*")}
    assert sorted(on_disk) == sorted(PAGES)
    for name, text in PAGES.items():
        assert on_disk[name] == text, f"{name}: run `python docs/generate.py`"


@each_optimizer
def test_page_says_what_it_must(cls):
    text = PAGES[generate.file_name(cls)]
    assert f"\n# {cls.__name__}\n" in text
    assert f"```python\ntf_optim_ext.{cls.__name__}(" in text
    others = [generate.file_name(other) for other in optimizers.ALL if other is not cls]
    assert "```math\n" in text or any(f"]({other})" in text for other in others)
    for name in (*cls.declaration().intervals, "learning_rate", "weight_decay"):
        assert f"- `{name}`" in text, name
    reference = re.search(r"\n## References\n\n(.*?)\n\n## ", text, re.DOTALL).group(1)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b", reference)
    assert re.search(r"\n## Example\n\n(.+\n)*?```python\n>>> ", text)
    assert f"(../../{cls.__module__.replace('.', '/')}.py)" in text


def rows_of(table):
    header, _, *rows = [tuple(line.strip("| ").split(" | ")) for line in table.split("\n")]
    return [header, *rows]


def report():
    """The table of `python -m tf_optim_ext`, without what depends on the machine."""
    machine = __main__.HEADER.index("Backend")
    return [(*row[:machine], *row[machine + 1 :]) for row in [__main__.HEADER, *__main__.rows()]]


@each_optimizer
def test_facts_are_those_of_the_report(cls):
    _, rest = PAGES[generate.file_name(cls)].split("\n## Facts\n\n")
    header, *rows = report()
    of_class = [row for row in rows if re.fullmatch(rf"{cls.__name__}( \(.*)?", row[0])]
    assert of_class
    assert rows_of(rest.split("\n\n")[0]) == [header, *of_class]


def test_index_has_the_whole_report():
    assert rows_of(PAGES["README.md"].strip().rpartition("\n\n")[2]) == report()


@each_optimizer
def test_index_names_every_optimizer(cls):
    assert f"| [{cls.__name__}]({generate.file_name(cls)}) | " in PAGES["README.md"]


@pytest.mark.parametrize(
    "name",
    [
        *PAGES,
        "../migration-from-tensorflow-addons.md",
        "../migration-from-tf-keras-2.md",
        "../schedules.md",
    ],
)
def test_links_lead_somewhere(name):
    text = PAGES.get(name) or (DOCS / name.removeprefix("../")).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (generate.PAGES / name).parent.joinpath(target).resolve().exists(), target


@pytest.mark.parametrize("name", PAGES)
def test_nothing_of_the_docstrings_syntax_remains(name):
    text = re.sub(r"```.*?```", "", PAGES[name], flags=re.DOTALL)
    assert ":math:" not in text
    assert "\n.. " not in text
    assert not re.search(r":\w+:`", text)


@pytest.mark.parametrize("name", PAGES)
def test_mathematics_is_what_github_shows(name):
    text = PAGES[name]
    blocks = re.findall(r"```math\n(.*?)```", text, re.DOTALL)
    spans = re.findall(r"\$`([^`]*)`\$", text)
    for tex in [*blocks, *spans]:
        assert not re.search(r"\\(operatorname|mbox|phantom|def|newcommand)\b", tex)
        assert not re.search(r"[<>]", tex)
        assert tex.count("{") == tex.count("}")
        assert tex.count(r"\begin") == tex.count(r"\end")
    for block in blocks:
        assert r"\begin" in block or ("&" not in block and r"\\" not in block)
        assert "\n\n" not in block
    for span in spans:
        assert "\n" not in span


def test_common_arguments_are_those_of_the_signatures():
    text, _ = PAGES[generate.COMMON].split("\n## Raises")
    listed = re.findall(r"^- `(\w+)`", text, re.MULTILINE)
    parameters = inspect.signature(tf_optim_ext.SGD).parameters.values()
    common = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    assert sorted(listed) == sorted(["learning_rate", *common])


def test_check_names_what_differs(tmp_path, capsys):
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    capsys.readouterr()
    (tmp_path / "SGD.md").write_text("old")
    (tmp_path / "Gone.md").write_text("of no optimizer")
    (tmp_path / "README.md").unlink()
    assert generate.main(["--check"], tmp_path) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [pathlib.Path(line).name for line in printed] == ["Gone.md", "README.md", "SGD.md"]
    assert generate.main([], tmp_path) == 0
    assert sorted(path.name for path in tmp_path.glob("*")) == sorted(PAGES)


def test_unknown_arguments_are_refused(tmp_path, capsys):
    assert generate.main(["--chekc"], tmp_path) == 2
    assert "--check" in capsys.readouterr().out
    assert not list(tmp_path.glob("*"))


# -------------------------------------------------------------------------------- the conversion


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        (r"the :math:`\beta_1 m_{t-1}`.", r"the $`\beta_1 m_{t-1}`$."),
        (":math:`a *\n  b* c`", "$`a * b* c`$"),
        (":math:`a<b`, :math:`t > 1`", r"$`a \lt b`$, $`t \gt 1`$"),
        (r"(:math:`\hat\epsilon`)", r"($`\hat\epsilon`$)"),
        (r":math:`\operatorname{sign}(g)`", r"$`\mathop{\mathrm{sign}}(g)`$"),
        ("`a_b` and ``c``", "`a_b` and ``c``"),
        ("`SGD`, `Optimizer`", "[`SGD`](SGD.md), [`Optimizer`](common-arguments.md)"),
        ("5 $ and <b>", r"5 \$ and \<b>"),
        ("see arXiv:1412.6980.", "see [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)."),
        ("`Text <https://a.b/c>`__", "[Text](https://a.b/c)"),
    ],
)
def test_inline(docstring, markdown):
    assert generate.inline(docstring) == markdown


def test_a_page_is_not_linked_to_itself():
    assert generate.inline("`SGD`", "SGD.md") == "`SGD`"


@pytest.mark.parametrize("text", ["1-:math:`x`", "a:math:`x`", ":math:`k`th"])
def test_mathematics_that_github_would_not_show_is_refused(text):
    with pytest.raises(ValueError, match="space or punctuation"):
        generate.inline(text)


def test_equations():
    assert generate.body(".. math:: w = 1") == "```math\nw = 1\n```"
    assert generate.body("Text:\n\n.. math::\n\n    w = 1\n\nMore.") == (
        "Text:\n\n```math\nw = 1\n```\n\nMore."
    )
    aligned = "```math\n\\begin{aligned}\na &= 1 \\\\\n  &+ 2\n\\end{aligned}\n```"
    assert generate.body(".. math::\n    a &= 1 \\\\\n      &+ 2") == aligned
    two = ".. math::\n    a = 1\n\n    b = \\lVert a \\rVert"
    assert generate.body(two) == "```math\na = 1\n```\n\n```math\nb = \\lVert a \\rVert\n```"


def test_a_single_entry_may_be_continued():
    markdown = generate.convert("S.\n\nRaises:\n    E: one,\n        two.\n")
    assert markdown == "S.\n\n## Raises\n\n- `E`: one,\n  two."


def test_code():
    doctest = ">>> f(\n...     1)\n0.5"
    assert generate.body(f"So:\n\n{doctest}") == f"So:\n\n```python\n{doctest}\n```"
    assert generate.body("So::\n\n    a\n\n    b") == "So:\n\n```python\na\n\nb\n```"


def test_unknown_directives_are_refused():
    with pytest.raises(ValueError, match="unknown directive"):
        generate.body(".. note::\n    x")


def test_lists():
    text = "a: one,\n    two.\nb, c: :math:`x`\n**kwargs: see `Optimizer`."
    assert generate.listing(text) == (
        "- `a`: one,\n  two.\n- `b`, `c`: $`x`$\n"
        "- `**kwargs`: see [`Optimizer`](common-arguments.md)."
    )
    with pytest.raises(ValueError, match="not of the form"):
        generate.listing("no colon")


def test_sections():
    docstring = r"""Short summary.

    Prose.

    Args:
        a: x.

            y.

    A remark.

    Returns:
        A value.

    Raises:
        ValueError, TypeError: z.

    Reference:
        Somebody, 2001.
    """
    assert generate.convert(docstring) == (
        "Short summary.\n\nProse.\n\n## Arguments\n\n- `a`: x.\n\n  y.\n\n## Remarks\n\nA remark."
        "\n\n## Returns\n\nA value.\n\n## Raises\n\n- `ValueError`, `TypeError`: z."
        "\n\n## References\n\nSomebody, 2001."
    )


# ------------------------------------------------------------------- TensorFlow Addons' optimizers


def test_migration_has_every_name_of_addons_once():
    tables = MIGRATION.split("\n## All optimizers")[0]
    names = re.findall(r"^\| `([\w.]+)` \|", tables, re.MULTILINE)
    assert sorted(n for n in names if "." not in n) == sorted(ADDONS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"tf_optim_ext\.(\w+)", MIGRATION))))
def test_migration_names_what_exists(name):
    assert hasattr(tf_optim_ext, name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(keras\.[\w.]+)", MIGRATION))))
def test_migration_names_what_keras_has(name):
    import keras

    if name.endswith("MultiOptimizer"):
        pytest.importorskip("keras.src.optimizers.multi_optimizer", reason="in Keras since 3.15")
    value = keras
    for part in name.split(".")[1:]:
        value = getattr(value, part)


def _recipe(name, tmp_path):
    (code,) = [recipe for recipe in RECIPES if f"class {name}(" in recipe]
    (tmp_path / "recipe.py").write_text(code)
    return runpy.run_path(str(tmp_path / "recipe.py"))[name]


def test_recipe_of_averages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = [recipe for recipe in RECIPES if "SWA(" in recipe]
    (tmp_path / "recipe.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "recipe.py"))
    for variable in names["model"].trainable_variables:
        average = names["optimizer"].get_slot(variable, "average")
        np.testing.assert_array_equal(variable.numpy(), average.numpy())


@pytest.mark.parametrize(
    "arguments",
    [{"weight_decay": 0.1}, {"weight_decay": 1e-4, "fully_decoupled_weight_decay": True}],
)
def test_weight_decay_of_addons(arguments):
    """The example of the migration page: one step takes 1e-4 of the weights."""
    weight = tf.Variable(1.0)
    optimizer = tf_optim_ext.AdamW(learning_rate=1e-3, **arguments)
    optimizer.apply_gradients([(tf.constant(0.0), weight)])
    assert float(weight) == pytest.approx(1 - 1e-4, abs=1e-7)
