"""Wheels with and without the native library, and the source distribution, from another folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import tensorflow as tf

import tf_optim_ext

pytestmark = pytest.mark.long

ROOT = pathlib.Path(__file__).parent.parent
STEP = """
import tensorflow as tf, tf_optim_ext
optimizer, weight = tf_optim_ext.Adam(0.1), tf.Variable([1.0, 2.0])
optimizer.apply_gradients([(tf.constant([1.0, -1.0]), weight)])
tf.debugging.assert_near(weight, [0.9, 2.1], 1e-6)
print(tf_optim_ext.__file__, optimizer.route, sep="|")
"""


def _run(command, cwd, **environment):
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of the sources, without anything that was built in place."""
    copy = tmp_path_factory.mktemp("sources") / "tree"
    built = shutil.ignore_patterns(".*", "*.so", "build.json", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=built)
    return copy


def _wheel(sources, folder, **environment):
    command = ["-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w"]
    _run([*command, str(folder), str(sources)], folder, **environment)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return wheel


def _step_in(folder):
    """Takes a step with the package unpacked in `folder`; returns the route."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    where, route = (
        _run(["-c", STEP], elsewhere, PYTHONPATH=str(folder / "site"), TF_OPTIM_EXT_NATIVE="")
        .strip()
        .split("|")
    )
    assert where.startswith(str(folder / "site"))
    return route


def test_wheel(sources, tmp_path, native_only):
    wheel = _wheel(sources, tmp_path)
    minor = "".join(tf.__version__.split(".")[:2])
    assert f"-1tf{minor}-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert _step_in(tmp_path).startswith("native")


def test_wheel_for_another_tensorflow(sources, tmp_path, native_only):
    """Works without the library, which is not loaded."""
    _wheel(sources, tmp_path)
    report = tmp_path / "site" / "tf_optim_ext" / "backends" / "native" / "build.json"
    contents = json.loads(report.read_text())
    report.write_text(json.dumps({**contents, "tensorflow": "2.99.0"}))
    route = _step_in(tmp_path)
    assert route.startswith("tensorflow: library built for TensorFlow 2.99.0, this is 2.")
    assert "pip install --force-reinstall" in route


def test_wheel_without_a_compiler(sources, tmp_path):
    wheel = _wheel(sources, tmp_path, CXX="no-such-compiler")
    assert f"-{tf_optim_ext.__version__}-py3-none-" in wheel.name
    route = _step_in(tmp_path)
    assert route == "tensorflow: library not built: no C++ compiler: no-such-compiler not found"


def test_source_distribution(sources, tmp_path, native_only):
    build = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
    _run(["-c", build], sources)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for needed in ("LICENSE", "README.md", "tests/references/builtin.py", "examples/digits.py"):
        assert (unpacked / needed).exists(), needed
    _wheel(unpacked, tmp_path)
    assert _step_in(tmp_path).startswith("native")
