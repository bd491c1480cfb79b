"""Adds the native library to the build; everything else is in `pyproject.toml`.

The library has no Python in it, so one wheel serves every Python version. Where it cannot be built,
the package is installed without it and says why at run time (`tf_optim_ext.native.why_not()`).
"""

import importlib.util
import pathlib
import sys

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent


def _builder():
    # By path: importing the package would import TensorFlow, which may be missing.
    path = HERE / "tf_optim_ext" / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("native_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithNativeLibrary(build_py):
    """Builds the library into the copy of the package that will be installed."""

    def run(self):
        super().run()
        sys.path.insert(0, str(HERE))
        in_place = self.editable_mode
        package = HERE if in_place else pathlib.Path(self.build_lib)
        reason = _builder().build_or_report(package / "tf_optim_ext" / "native")
        if reason:
            self.warn(f"the native library was not built: {reason}")


class WheelForEveryPython(bdist_wheel):
    """Tags the wheel with the platform only."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """A distribution that is not pure Python."""

    def has_ext_modules(self):
        return True


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildWithNativeLibrary, "bdist_wheel": WheelForEveryPython},
)
