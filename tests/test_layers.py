"""What the sources of the package may name: layers below them, and nothing private of others."""

import ast
import pathlib
import shutil
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import _keras

pytestmark = pytest.mark.once

PACKAGE = pathlib.Path(tf_optim_ext.__file__).parent
HOME_OF_PRIVATE_NAMES = PACKAGE / "_keras"
ALL_SOURCES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [path for path in ALL_SOURCES if HOME_OF_PRIVATE_NAMES not in path.parents]
PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tf.__internal__", "tensorflow.compiler")


def private_of_keras():
    """Names with a leading underscore that Keras' optimizers have, as methods or attributes."""
    optimizer = keras.optimizers.Adam()
    optimizer.build([tf.Variable(1.0)])
    callback = keras.callbacks.SwapEMAWeights()
    names = {name for each in (optimizer, callback) for name in dir(each)}
    ours = {name for cls in _keras.KerasOptimizer.__mro__[:3] for name in vars(cls)}
    private = {name for name in names if name.startswith("_") and not name.startswith("__")}
    assert "_trainable_variables" in private
    assert not (ours - private) & private
    return private


def names_in(text):
    """Attributes, with what they are attributes of, and the names of functions and of keys."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.FunctionDef):
            yield "def", node.name
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield "key", str(node.slice.value)


def defined_by_us(texts):
    """All names that the package defines: functions, classes, variables and attributes of self."""
    found = set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("__setattr__"):
                found.update(a.value for a in node.args if isinstance(a, ast.Constant))
    return found


def problems(text, private, defined):
    """What a source names and should not."""
    found = [name for name in PRIVATE_MODULES if name in text]
    for owner, name in names_in(text):
        if not name.startswith("_") or name.startswith("__"):
            continue
        if name in private or (owner not in ("def", "key") and name not in defined):
            found.append(f"{owner}.{name}")
    return found


class TestPrivateNames:
    """Those of Keras and TensorFlow stand in one module, with the versions they were tried on."""

    @pytest.fixture(scope="class")
    def private(self):
        return private_of_keras()

    @pytest.fixture(scope="class")
    def defined(self):
        return defined_by_us(path.read_text() for path in ALL_SOURCES)

    @pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
    def test_of_others(self, path, private, defined):
        assert problems(path.read_text(), private, defined) == []

    @pytest.mark.parametrize(
        "text",
        [
            "from keras.src import tree",
            "from tensorflow.python.eager import context",
            "x = tf.__internal__.get_enclosing_xla_context()",
            "self._trainable_variables[0]",
            "self.__dict__['_trainable_variables'] = []",
            "def _trackable_children(self): pass",
            "tensor._shape_tuple()",
        ],
    )
    def test_are_found(self, text, private, defined):
        assert problems(text, private, defined - {"_shape_tuple"})


LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


class TestLayers:
    """No module imports what is above it, and no circle of imports, also within functions."""

    @pytest.fixture
    def tree(self, tmp_path):
        pytest.importorskip("importlinter")
        root = PACKAGE.parent
        if not (root / "pyproject.toml").exists():
            pytest.skip("what is installed is tested; the contract is in the checkout")
        shutil.copy(root / "pyproject.toml", tmp_path)
        sources = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(PACKAGE, tmp_path / "tf_optim_ext", ignore=sources)
        return tmp_path

    def lint(self, tree):
        command = [sys.executable, "-c", LINT]
        return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)

    def test_are_kept(self, tree):
        run = self.lint(tree)
        assert run.returncode == 0, run.stdout
        assert "0 broken" in run.stdout

    def test_an_import_of_what_is_above_is_found(self, tree):
        with (tree / "tf_optim_ext" / "rule" / "auxiliary.py").open("a") as file:
            file.write("\n\ndef late():\n    from tf_optim_ext import optimizers\n")
        run = self.lint(tree)
        assert run.returncode != 0
        assert "tf_optim_ext.rule is not allowed to import tf_optim_ext.optimizers" in run.stdout


def test_no_file_is_long():
    long = {path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 450}
    assert not long
