"""What the documentation says is true."""

import collections
import doctest
import inspect
import pathlib
import re
import runpy

import pytest

import tf_optim_ext
from tf_optim_ext import __main__, build, catalogue, optimizers, wrappers
from tf_optim_ext.backends import native
from tf_optim_ext.engine import route

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
GUIDES = [
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in (
        "sparse-gradients",
        "compatibility",
        "changing-optimizers",
        "groups",
        "keras-2",
        "sam",
        "schedules",
        "wrappers",
    )
]


def blocks_of(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


BLOCKS = blocks_of(README)


@pytest.mark.once
@pytest.mark.parametrize("block", [*BLOCKS, *blocks_of("".join(GUIDES))], ids=lambda _: "")
def test_examples_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # As a file: AutoGraph reads the source of what it transforms.
    (tmp_path / "example.py").write_text(block)
    runpy.run_path("example.py")


def test_readme_has_an_example_of_each_use():
    text = "\n".join(BLOCKS)
    for call in ("model.compile", "tf.GradientTape", "tf.saved_model.save", "def rule("):
        assert call in text


def test_readme_groups_every_optimizer_once():
    section = README.split("\n## Optimizers\n")[1].split("\n## ")[0]
    groups = re.findall(r"^- \*\*.*?\*\*: (.*(?:\n  .*)*)", section, re.MULTILINE)
    names = re.findall(r"`(\w+)`", "\n".join(groups))
    assert len(groups) == 10
    assert sorted(names) == sorted(cls.__name__ for cls in optimizers.ALL)


def test_the_picture_is_of_committed_results():
    panels = runpy.run_path(str(ROOT / "docs" / "speedups.py"))["ratios"]()
    whole, step = panels.values()
    assert len(whole) == 5 and len(step) == 3
    assert all(0.5 < ratio < 200 for ratio in (*whole.values(), *step.values()))
    assert "](docs/speedups.png)" in README
    assert f"{step['eager']:.0f} times faster" in " ".join(README.split())
    assert f"There are {len(optimizers.ALL)} optimizers" in " ".join(README.split())


def test_no_two_files_differ_only_in_case():
    """Such pairs cannot be checked out on macOS and Windows."""
    visible = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    paths = {str(path) for each in visible for path in (each, *each.rglob("*"))}
    count = collections.Counter(map(str.lower, paths))
    assert sorted(path for path in paths if count[path.lower()] > 1) == []


@pytest.mark.once
@pytest.mark.parametrize("cls", [*optimizers.ALL, *wrappers.ALL], ids=lambda cls: cls.__name__)
def test_docstring_examples(cls):
    module = __import__(cls.__module__, fromlist=["_"])
    results = doctest.testmod(module)
    assert results.attempted >= 4
    assert results.failed == 0


def test_route_docstring_example():
    results = doctest.testmod(route)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("cls", optimizers.ALL, ids=lambda cls: cls.__name__)
def test_docstrings_tell_arguments_and_source(cls):
    for name in (*cls.declaration().intervals, "learning_rate", "weight_decay"):
        assert f"{name}:" in cls.__doc__, name
    assert "arXiv" in cls.__doc__ or "Reference:" in cls.__doc__


@pytest.mark.parametrize("cls", wrappers.ALL, ids=lambda cls: cls.__name__)
def test_docstrings_of_wrappers(cls):
    for name in inspect.signature(cls).parameters:
        assert f"{name}:" in cls.__doc__, name
    assert "Reference:" in cls.__doc__ and "Raises:" in cls.__doc__


def test_everything_public_is_documented():
    for name in tf_optim_ext.__all__:
        assert getattr(tf_optim_ext, name).__doc__, name


def test_report(capsys):
    __main__.main()
    printed = capsys.readouterr().out
    assert f"tf_optim_ext {tf_optim_ext.__version__}" in printed
    built = f"{native.instruction_set()}, built for TensorFlow {native.built_for()}"
    assert (native.why_not() or built) in printed
    for cls in optimizers.ALL:
        assert cls.__name__ in printed


def test_emitted_source_can_be_printed():
    printed = build.sources(["Lamb"])
    assert "pass1" in printed
    assert "AdamW" not in printed
    assert "__global__" in build.cuda_sources(["Lamb"])


def test_every_optimizer_is_public_and_compiled(native_only):
    for cls in optimizers.ALL:
        assert getattr(tf_optim_ext, cls.__name__) is cls
        assert cls.__name__ in tf_optim_ext.__all__
    for title, program in catalogue.all_programs():
        assert native.has(program), title
