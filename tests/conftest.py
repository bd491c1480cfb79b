"""Fixtures shared by all tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import contextlib
import functools
import pathlib
import sys
import zlib
from importlib.machinery import PathFinder

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _prefer_what_is_installed():
    """Takes the checkout from `sys.path` if the package is installed, too.

    `python -m pytest` puts it there in the first place, and it would hide what was installed, which
    has the native library. One that `PYTHONPATH` names was put there by somebody who wants it.
    """

    def is_checkout(entry):
        return pathlib.Path(entry).resolve() == ROOT

    if any(map(is_checkout, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))):
        return
    others = [entry for entry in sys.path if not is_checkout(entry)]
    if PathFinder.find_spec("tf_optim_ext", others):
        sys.path[:] = others


_prefer_what_is_installed()

import registry
import tensorflow as tf
from generation import keras

import tf_optim_ext

tf.config.threading.set_intra_op_parallelism_threads(2)

# For `import benchmarks`. At the end: the source must not hide an installed package.
sys.path.append(str(ROOT))

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")


@pytest.fixture(params=registry.ENTRIES, ids=lambda entry: entry.name)
def entry(request):
    """Each optimizer of the registry; see `pytest_collection_modifyitems`."""
    return request.param


def pytest_configure(config):
    """Hides GPUs from all but the tests that are about them: variables would be put there."""
    marks = (config.option.markexpr or "").replace("not gpu", "")
    if "gpu" not in marks:
        # TensorFlow has not looked for them yet; nor have the processes that tests start.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_addoption(parser):
    parser.addoption(
        "--one-of",
        type=int,
        default=1,
        metavar="N",
        help="of N long tests, run one; those without parameters ten times as often",
    )
    parser.addoption(
        "--part",
        type=int,
        default=0,
        metavar="K",
        help="which one of N, modulo N; all numbers from 0 to N - 1 are all tests",
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    """Says in the first line what is tested, also with `-q`; of two processes, one says it."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        reporter.write_line(_what_is_tested())


def _what_is_tested():
    reason = tf_optim_ext.native.why_not()
    library = f"no library: {reason}" if reason else tf_optim_ext.native.instruction_set()
    return (
        f"testing {pathlib.Path(tf_optim_ext.__file__).parent}, {tf_optim_ext.__version__} "
        f"({library}), with TensorFlow {tf.__version__} and Keras {keras.__version__}"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Makes tests of most optimizers long ones, unless they are marked `family`.

    The arguments of that mark are the routes on which all optimizers are tested; default: any.
    The mark `few` leaves fewer than `REPRESENTATIVE`; its arguments are their names, if others than
    `FEW`. Routes under XLA are for `FEW`.
    """
    _mark_long(items)
    _mark_once(items)
    count, part = config.getoption("--one-of"), config.getoption("--part")
    left_out = [
        item
        for item in items
        if item.get_closest_marker("long") and not _is_in_part(item, count, part)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        without = set(left_out)
        items[:] = [item for item in items if item not in without]


def _is_in_part(item, count, part):
    if not hasattr(item, "callspec"):  # the only one of its kind
        count = max(1, count // 10)
    return (zlib.crc32(item.nodeid.encode()) - part) % count == 0


def _mark_long(items):
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        entry = params.get("entry") or registry.BY_NAME.get(params.get("entry_name"))
        few = item.get_closest_marker("few")
        short = (few.args or registry.FEW) if few else registry.REPRESENTATIVE
        if entry is None:
            continue
        if entry.name in short:
            # Each case takes up to seconds to compile.
            if str(params.get("route")).endswith("xla") and entry.name not in registry.FEW:
                item.add_marker(pytest.mark.long)
            continue
        family = item.get_closest_marker("family")
        if family is None or (family.args and params["route"] not in family.args):
            item.add_marker(pytest.mark.long)


def _mark_once(items):
    """The TensorFlow route under XLA is the same with the native library and without."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if params.get("route") == "xla" or params.get("mode") == "portable xla":
            item.add_marker(pytest.mark.once)


def shortened(names, short):
    """Parameters of which only some are not for the long tests."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.long) for name in names]


def _native_routes():
    """Native routes that this machine can run; the others are reported as skipped."""
    if tf_optim_ext.native.why_not():
        return []
    initial = tf_optim_ext.native.instruction_set()
    possible = []
    for name in INSTRUCTION_SETS:
        with contextlib.suppress(ValueError):
            tf_optim_ext.native.use(name)
            possible.append(name)
    tf_optim_ext.native.use(initial)
    return possible


POSSIBLE = _native_routes()
# "xla" is the TensorFlow route under XLA; "native xla" the native one.
ROUTES = ("tensorflow", "xla", "native xla", *INSTRUCTION_SETS)
BEST = POSSIBLE[-1] if POSSIBLE else "tensorflow"


class Route:
    """A way to run a step; `wrap` makes a callable take it, `expected` is what `route` says."""

    def __init__(self, name):
        self.name = name
        self.expected = {
            "tensorflow": "tensorflow: inside portable()",
            "xla": "tensorflow: inside portable()",
            "native xla": f"native ({tf_optim_ext.native.instruction_set()}) inside XLA",
        }.get(name, f"native ({name})")

    def wrap(self, step):
        if self.name in ("tensorflow", "xla"):
            step = portable(step)
        return tf.function(step, jit_compile=True) if self.name.endswith("xla") else step


def portable(step):
    """A step that takes the TensorFlow route wherever it is taken or traced."""

    @functools.wraps(step)
    def portable_step(*args):
        with tf_optim_ext.portable():
            return step(*args)

    return portable_step


@pytest.fixture(params=ROUTES)
def route(request):
    """Each route; the instruction set in use is restored afterwards."""
    name = request.param
    if name == "native xla":
        request.getfixturevalue("native_inside_xla")
    if name not in INSTRUCTION_SETS:
        yield Route(name)
        return
    if name not in POSSIBLE:
        reason = tf_optim_ext.native.why_not() or f"this processor has no {name}"
        pytest.skip(reason)
    initial = tf_optim_ext.native.instruction_set()
    tf_optim_ext.native.use(name)
    yield Route(name)
    tf_optim_ext.native.use(initial)


@pytest.fixture
def native_only():
    """Skips a test that is about the native library where there is none."""
    if tf_optim_ext.native.why_not():
        pytest.skip(tf_optim_ext.native.why_not())


@pytest.fixture
def native_inside_xla():
    """Skips a test that is about native steps under XLA where there are none."""
    if reason := tf_optim_ext.native.why_not_inside_xla():
        pytest.skip(reason)
