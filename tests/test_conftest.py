"""Which package is tested, however pytest is started."""

import os
import pathlib
import shutil
import subprocess
import sys

import conftest
import pytest
from common import PACKAGE

import tf_optim_ext

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parent.parent
WANTED = "TF_OPTIM_EXT_TEST_WANTED"
PROBE = "tests/test_conftest.py::test_what_is_imported"
PYTEST = "import sys, pytest; sys.path[:] = [p for p in sys.path if p]; sys.exit(pytest.main())"


def test_what_is_imported():
    """Also run by the tests below, in other processes."""
    assert os.environ.get(WANTED, PACKAGE) in (str(PACKAGE), PACKAGE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder like `site-packages`, with a copy of the package."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE / "tf_optim_ext", folder / "tf_optim_ext")
    return folder


def first_line(command, wanted, path, *options):
    """Runs the probe in another pytest; returns the first line that this prints."""
    run = subprocess.run(
        [sys.executable, *command, PROBE, "-p", "no:cacheprovider", *options],
        cwd=ROOT,
        env={**os.environ, WANTED: str(wanted), "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout
    return run.stdout.splitlines()[0]


@pytest.mark.parametrize("is_named", [False, True], ids=["not named", "named by PYTHONPATH"])
def test_the_installed_one_goes_before_the_checkout(is_named, installed, monkeypatch):
    """As in the tests below, without processes."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT)] * is_named))
    monkeypatch.setattr(sys, "path", [str(ROOT), str(installed)])
    conftest._prefer_what_is_installed()
    assert sys.path == [*[str(ROOT)] * is_named, str(installed)]
    monkeypatch.setattr(sys, "path", [str(ROOT)])
    conftest._prefer_what_is_installed()
    assert sys.path == [str(ROOT)], "nothing else is installed"


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "workers"),
    [(["-m", "pytest"], 0), (["-m", "pytest"], 2), (["-c", PYTEST], 0)],
    ids=["python -m pytest", "python -m pytest, two processes", "pytest"],
)
def test_what_is_installed_is_tested(command, workers, installed):
    said = first_line(command, installed, installed, f"-n{workers}")
    assert said.startswith(f"testing {installed / 'tf_optim_ext'}, {tf_optim_ext.__version__} (")
    assert "TensorFlow 2." in said
    assert "Keras 3." in said


@pytest.mark.long
def test_a_checkout_in_the_path_is_tested(installed):
    """For work without an installation, whatever else is installed."""
    said = first_line(["-m", "pytest"], ROOT, f"{ROOT}{os.pathsep}{installed}", "-n0")
    assert said.startswith(f"testing {ROOT / 'tf_optim_ext'}, ")
