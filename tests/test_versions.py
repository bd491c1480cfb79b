"""Which versions of TensorFlow and Keras are taken, warned of and refused.

`versions.py` tests those taken.
"""

import importlib
import pathlib
import re
import subprocess
import sys
import warnings

import pytest
import tensorflow as tf
from common import PACKAGE

from tf_optim_ext._keras import versions

ROOT = pathlib.Path(__file__).parent.parent
OLDEST, NEWEST = (".".join(map(str, n)) for n in (versions.OLDEST_KERAS, versions.NEWEST_KERAS))
TESTED = f"works with Keras {re.escape(OLDEST)} to {re.escape(NEWEST)}, but"
OLDEST_TF, NEWEST_TF = (
    ".".join(map(str, n)) for n in (versions.OLDEST_TENSORFLOW, versions.NEWEST_TENSORFLOW)
)


def test_that_of_this_environment_is_tested():
    versions.check_tensorflow(tf.__version__)
    versions.check_keras_3(tf.keras.__version__, "tensorflow")


@pytest.mark.parametrize("version", [f"{OLDEST}.0", f"{NEWEST}.1", f"{NEWEST}.0.dev2026010103"])
def test_taken(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check_keras_3(version, "tensorflow")


@pytest.mark.parametrize(
    ("version", "backend", "message"),
    [
        ("3.9.2", "tensorflow", f'{TESTED} Keras 3.9.2 is installed: pip .*"keras>={OLDEST}"'),
        ("3.9.0", "tensorflow", "Keras 3.9.0 is installed"),
        ("2.15.0", "tensorflow", "Keras 2.15.0 is installed"),
        (f"{NEWEST}.0", "jax", "Keras uses 'jax': set .*KERAS_BACKEND=tensorflow"),
        (f"{NEWEST}.0", "torch", "Keras uses 'torch'"),
    ],
)
def test_refused(version, backend, message):
    with pytest.raises(ImportError, match=message):
        versions.check_keras_3(version, backend)


@pytest.mark.parametrize("version", ["3.99.0", "3.100.0rc1", "4.0.0"])
def test_newer_ones_are_warned_of(version):
    with pytest.warns(UserWarning, match=f"but not with Keras {re.escape(version)}, which is"):
        versions.check_keras_3(version, "tensorflow")


@pytest.mark.parametrize("version", [f"{OLDEST_TF}.0", f"{NEWEST_TF}.1", f"{NEWEST_TF}.0-rc1"])
def test_taken_of_tensorflow(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        versions.check_tensorflow(version)


@pytest.mark.parametrize("version", ["2.18.1", "1.15.0"])
def test_refused_of_tensorflow(version):
    message = (
        f"works with TensorFlow {re.escape(OLDEST_TF)} to {re.escape(NEWEST_TF)}, but TensorFlow "
        f'{re.escape(version)} is installed: pip install -U "tensorflow>={re.escape(OLDEST_TF)}"'
    )
    with pytest.raises(ImportError, match=message):
        versions.check_tensorflow(version)


@pytest.mark.parametrize("version", ["2.99.0", "2.100.0-rc0", "3.0.0"])
def test_newer_ones_of_tensorflow_are_warned_of(version):
    message = f"but not with TensorFlow {re.escape(version)}, which is .*uses of TensorFlow may"
    with pytest.warns(UserWarning, match=message):
        versions.check_tensorflow(version)


def imported(setting, **environment):
    """The last line of errors of a process that imports the package with another Keras."""
    code = f"import tensorflow as tf, keras, sys\n{setting}\nimport tf_optim_ext"
    run = subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", code],
        env={"PATH": "", "PYTHONPATH": str(PACKAGE), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stderr


class TestImport:
    """Before anything else fails that says less."""

    @pytest.mark.long
    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ("tf.__version__ = '2.18.1'", "TensorFlow 2.18.1 is installed"),
            ("keras.__version__ = '3.9.2'", "Keras 3.9.2 is installed"),
            ("keras.backend.backend = lambda: 'torch'", "Keras uses 'torch'"),
            (
                "keras.__version__ = '3.99.0'; sys.modules['keras.src.legacy.saving'] = None",
                "does not work with Keras 3.99.0, which lacks a part",
            ),
        ],
    )
    def test_refused(self, setting, message):
        code, errors = imported(setting)
        assert code == 1
        assert errors.splitlines()[-1].startswith("ImportError: tf_optim_ext ")
        assert message in errors.splitlines()[-1]

    @pytest.mark.long
    def test_a_newer_tensorflow(self):
        """Works without the native library, which was built for another one."""
        code, errors = imported("tf.__version__ = '2.99.0'")
        assert code == 0
        assert "UserWarning: tf_optim_ext was tested with TensorFlow" in errors
        assert "not with TensorFlow 2.99.0" in errors

    @pytest.mark.long
    def test_a_newer_one(self):
        code, errors = imported("keras.__version__ = '3.99.0'")
        assert code == 0
        assert "UserWarning: tf_optim_ext was tested with" in errors
        assert "not with Keras 3.99.0" in errors


def test_what_pip_installs_is_what_is_taken():
    text = (ROOT / "pyproject.toml").read_text()
    for package, oldest, newest in (
        ("keras", OLDEST, versions.NEWEST_KERAS),
        ("tensorflow", OLDEST_TF, versions.NEWEST_TENSORFLOW),
        ("tf-keras", OLDEST_TF, versions.NEWEST_KERAS_2),
    ):
        ranges = set(re.findall(rf'"{package}>=([\d.]+),<([\d.]+)"', text))
        assert ranges == {(oldest, f"{newest[0]}.{newest[1] + 1}")}, package


ANY_TENSORFLOW = re.search('"(tensorflow>=.*?)"', (ROOT / "pyproject.toml").read_text())[1]


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [
        (None, ANY_TENSORFLOW),
        ("2.18.1", ANY_TENSORFLOW),
        (f"{OLDEST_TF}.1", f"tensorflow=={OLDEST_TF}.*"),
        ("2.20.0", "tensorflow==2.20.*"),
        (f"{NEWEST_TF}.0rc1", f"tensorflow=={NEWEST_TF}.*"),
        ("2.99.0", ANY_TENSORFLOW),
    ],
)
def test_what_pip_builds_against(installed, wanted, tmp_path, monkeypatch):
    """The TensorFlow that is installed, if this package may stay with it."""
    monkeypatch.syspath_prepend(ROOT / "build_backend")
    backend = importlib.import_module("backend")
    if installed:
        folder = tmp_path / f"tensorflow-{installed}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: tensorflow\nVersion: {installed}\n")
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda name: str(tmp_path))
    assert backend.get_requires_for_build_wheel() == [wanted]
    assert backend.get_requires_for_build_editable() == [wanted]
