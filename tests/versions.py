"""Tests the package with other versions of Keras, each in a virtual environment of its own.

python tests/versions.py                          # the oldest and the newest
python tests/versions.py --keras 3.13 3.14        # others
python tests/versions.py -- tests/test_keras.py   # what follows `--` is for pytest

Environments are kept in --folder, and used again by a later call. Needs neither TensorFlow nor this
package.
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
# Where the package meets Keras. The maths is the same with all versions.
TESTS = (
    "tests/test_versions.py",
    "tests/test_bad_input.py",
    "tests/test_keras.py",
    "tests/test_state.py",
    "tests/test_configuration.py",
    "tests/test_contract.py",
    "tests/test_compatibility.py",
    "tests/test_schedule_free.py",
    "tests/test_schedule_free_saving.py",
    "tests/test_usage.py",
)


def allowed():
    """The oldest version that `pyproject.toml` allows, and the newest: texts such as "3.12"."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, below = re.search(r'"keras>=([\d.]+),<([\d.]+)"', text).groups()
    major, minor = map(int, below.split("."))
    return oldest, f"{major}.{minor - 1}"


def pip(python, *arguments):
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments, "-q"]
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def make(folder, version, wheel):
    """The interpreter of an environment with the newest Keras of a version."""
    place = folder / f"keras-{version}"
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
    # Together: pip then looks for versions that fit each other.
    pip(python, "install", f"{wheel}[test]", f"keras=={version}.*")
    pip(python, "install", "--force-reinstall", "--no-deps", wheel)
    return python


def build(folder):
    """A wheel of this package, whose native library all environments share."""
    for old in folder.glob("tf_optim_ext-*.whl"):
        old.unlink()
    pip(sys.executable, "wheel", "--no-deps", "-w", folder, ROOT)
    (wheel,) = folder.glob("tf_optim_ext-*.whl")
    return wheel


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keras", nargs="+", default=allowed(), metavar="VERSION")
    parser.add_argument("--folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("pytest", nargs="*", default=TESTS, help="arguments of pytest")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or pathlib.Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        wheel, failed = build(folder), []
        for version in given.keras:
            python = make(folder, version, wheel)
            print(f"== Keras {version}", flush=True)
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            command = [python, "-m", "pytest", *given.pytest]
            if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
                failed.append(version)
    return f"failed with Keras {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
