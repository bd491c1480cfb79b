"""Setuptools' backend, which also asks for the TensorFlow that the native library is built against.

Its headers must be of the version that the library will run with. pip builds in an environment of
its own, where it would install the newest TensorFlow; so this looks for the one beside pip.
"""

import importlib.metadata
import pathlib
import re
import sysconfig

from setuptools.build_meta import *  # noqa: F403

PROJECT = pathlib.Path(__file__).resolve().parent.parent / "pyproject.toml"


def _minor(version):
    return tuple(map(int, version.split(".")[:2]))


def _requirement():
    text = PROJECT.read_text(encoding="utf-8")
    allowed, oldest, below = re.search(r'"(tensorflow>=([\d.]+),<([\d.]+))"', text).groups()
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    for found in importlib.metadata.distributions(name="tensorflow", path=list(folders)):
        if _minor(oldest) <= _minor(found.version) < _minor(below):
            return "tensorflow=={}.{}.*".format(*_minor(found.version))
    return allowed


def get_requires_for_build_wheel(config_settings=None):
    return [_requirement()]


def get_requires_for_build_editable(config_settings=None):
    return [_requirement()]
