"""Tests the package with other versions of TensorFlow and Keras, in virtual environments.

python tests/versions.py                        # each TensorFlow with its oldest and newest Keras
python tests/versions.py --tensorflow 2.20      # only this one
python tests/versions.py --keras 3.11 3.13      # these instead, where TensorFlow takes them
python tests/versions.py -- tests/test_keras.py # what follows `--` is for pytest; `tests` is all

There is an environment for each TensorFlow, with the Python that runs this. They are kept in
--folder, and used again by a later call. Needs neither TensorFlow nor this package.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where the package meets TensorFlow and Keras. The maths is the same with all versions.
TESTS = (
    "tests/test_versions.py",
    "tests/test_bad_input.py",
    "tests/test_keras.py",
    "tests/test_state.py",
    "tests/test_configuration.py",
    "tests/test_contract.py",
    "tests/test_compatibility.py",
    "tests/test_native.py",
    "tests/test_native_op.py",
    "tests/test_schedule_free.py",
    "tests/test_schedule_free_saving.py",
    "tests/test_usage.py",
    "tests/test_xla_library.py",
)


def allowed(package):
    """The versions of a package that `pyproject.toml` allows: pairs of numbers, in order."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, below = re.search(rf'"{package}>=([\d.]+),<([\d.]+)"', text).groups()
    (major, first), (_, end) = number(oldest), number(below)
    return [(major, minor) for minor in range(first, end)]


def number(text):
    return tuple(map(int, text.split(".")[:2]))


def pip(python, *arguments):
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments, "-q"]
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def installed(python, what):
    """An expression with `importlib.metadata`, which is `m`, in an environment."""
    code = f"import importlib.metadata as m; print({what})"
    return subprocess.check_output([python, "-c", code], text=True).strip()


def make(folder, tensorflow):
    """The interpreter of an environment with a TensorFlow and with a wheel built for it."""
    place = folder / "python-{}.{}-tensorflow-{}".format(*sys.version_info[:2], tensorflow)
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    exactly = f"tensorflow=={tensorflow}.*"
    pip(python, "install", exactly, "setuptools>=77", "wheel")
    for old in place.glob("*.whl"):
        old.unlink()
    pip(python, "wheel", "--no-deps", "--no-build-isolation", "-w", place, ROOT)
    (wheel,) = place.glob("*.whl")
    # Together: pip then looks for versions that fit each other.
    pip(python, "install", "--upgrade", f"{wheel}[test]", exactly)
    pip(python, "install", "--force-reinstall", "--no-deps", wheel)
    return python


def oldest_and_newest_keras(python):
    """Those that this package and the TensorFlow of an environment take."""
    needs = installed(python, "*m.requires('tensorflow')")
    taken = max(allowed("keras")[0], number(re.search(r"keras *>=([\d.]+)", needs)[1]))
    newest = number(installed(python, "m.version('keras')"))
    return ["{}.{}".format(*each) for each in dict.fromkeys((taken, newest))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    minors = ["{}.{}".format(*each) for each in allowed("tensorflow")]
    parser.add_argument("--tensorflow", nargs="+", default=minors, metavar="VERSION")
    parser.add_argument("--keras", nargs="+", metavar="VERSION")
    parser.add_argument("--folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("pytest", nargs="*", default=TESTS, help="arguments of pytest")
    given = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as temporary:
        folder, failed = (given.folder or pathlib.Path(temporary)).resolve(), []
        folder.mkdir(parents=True, exist_ok=True)
        for tensorflow in given.tensorflow:
            python = make(folder, tensorflow)
            for keras in given.keras or oldest_and_newest_keras(python):
                pip(python, "install", f"keras=={keras}.*")
                case = f"TensorFlow {tensorflow} and Keras {keras}"
                print(f"== {case}", flush=True)
                command = [python, "-m", "pytest", *given.pytest]
                if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
                    failed.append(case)
    return f"failed with {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
