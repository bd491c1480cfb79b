"""Adds the native library to the build; everything else is in `pyproject.toml`.

The library has no Python in it, so one wheel serves every Python version. It is for one minor
version of TensorFlow, which the wheel's build tag names. Where it cannot be built, the package is
installed without it and says why at run time (`tf_optim_ext.native.why_not()`).
"""

import json
import pathlib
import sys

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
NATIVE = pathlib.Path("tf_optim_ext", "backends", "native")


def _build_or_report(target):
    """Builds the library into a folder; returns why that was not possible, or None."""
    try:
        from tf_optim_ext import build
    except ImportError as error:
        reason = f"TensorFlow is needed for it: {error}"
        (target / "build.json").write_text(json.dumps({"error": reason}) + "\n")
        return reason
    return build.build_or_report(target)


class BuildWithNativeLibrary(build_py):
    """Builds the library into the copy of the package that will be installed."""

    def run(self):
        super().run()
        sys.path.insert(0, str(HERE))
        in_place = self.editable_mode
        package = HERE if in_place else pathlib.Path(self.build_lib)
        reason = _build_or_report(package / NATIVE)
        if reason:
            self.warn(f"the native library was not built: {reason}")


class WheelForEveryPython(bdist_wheel):
    """Tags the wheel with the platform and, if the library is in it, TensorFlow's minor version."""

    def get_tag(self):
        report = pathlib.Path(self.bdist_dir) / NATIVE / "build.json"
        # An editable installation has none in its wheel.
        version = report.exists() and json.loads(report.read_text()).get("tensorflow")
        if version and not self.build_number:
            self.build_number = "1tf" + "".join(version.split(".")[:2])
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """A distribution that is not pure Python."""

    def has_ext_modules(self):
        return True


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithNativeLibrary, "bdist_wheel": WheelForEveryPython},
)
