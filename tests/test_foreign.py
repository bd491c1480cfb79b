"""Tests of Keras, tf_keras and TensorFlow Addons with our classes: those that fail are known.

A failure that is not listed, one with another error, and one that is gone all fail here, so that
the lists in `foreign` stay true. `foreign/running.py` says how they run.
"""

import os

import keras
import pytest
from common import PACKAGE
from foreign import addons_suite, known_addons, known_keras, known_tf_keras, tf_keras_suite
from foreign.running import KINDS, Known, Suite

SUITES = {"Keras": known_keras, "tf_keras": known_tf_keras, "TensorFlow Addons": known_addons}


def check(suite, modules):
    outcomes = suite.run(modules, PACKAGE)
    complaints = suite.complaints(outcomes, modules)
    assert not complaints, "\n\n".join(complaints)
    assert {test.split("::")[0] for test in outcomes} == set(modules)


def each_process(suite):
    return pytest.mark.parametrize("modules", suite.processes, ids=lambda modules: modules[0])


@pytest.fixture
def known_version():
    version = tuple(map(int, keras.__version__.split(".")[:2]))
    if version != known_keras.KERAS:
        pytest.skip(f"the list is of Keras {known_keras.KERAS}, this is {keras.__version__}")


def test_a_module_of_keras(known_version):
    check(known_keras.SUITE, ("keras.src.optimizers.sgd_test",))


@pytest.mark.long
@each_process(known_keras.SUITE)
def test_keras(modules, known_version):
    check(known_keras.SUITE, modules)


def needs_source(suite):
    given = os.environ.get(suite.VARIABLE)
    reason = f"{suite.VARIABLE} does not say where a checkout of its repository is"
    return pytest.mark.skipif(not given, reason=reason)


@pytest.mark.long
@needs_source(tf_keras_suite)
@each_process(known_tf_keras.SUITE)
def test_tf_keras(modules):
    check(known_tf_keras.SUITE, modules)


@pytest.mark.long
@needs_source(addons_suite)
@each_process(known_addons.SUITE)
def test_addons(modules):
    check(known_addons.SUITE, modules)


@pytest.mark.once
class TestLists:
    @pytest.mark.parametrize("name", SUITES)
    def test_say_why(self, name):
        suite = SUITES[name].SUITE
        modules = {module for process in suite.processes for module in process}
        for known in suite.known:
            assert known.kind in KINDS
            assert known.why
            assert known.error
            assert {test.split("::")[0] for test in known.tests} <= modules

    def test_find_what_changed(self):
        known = (
            Known("wording", "w", "^Error: a", ("m::a", "m::b")),
            Known("wording", "w", "Error: c", ("m::c", "m::d", "m::gone", "other::e")),
            Known("other", "o", "Error: g", ("m::g", "m::h[1]")),
        )
        outcomes = {
            "m::a": "Error: a.",
            "m::b": "Error: b",
            "m::c": "passed",
            "m::d": "skipped",
            "m::e": "Error: e",
            "m::f": "passed",
            "m::g[1]": "Error: g",
            "m::g[2]": "passed",
            "m::h[1]": "Error: g",
            "m::h[2]": "passed",
        }
        complaints = Suite("", (), known).complaints(outcomes, ("m",))
        assert [complaint.splitlines()[0] for complaint in complaints] == [
            "m::b fails for another reason than '^Error: a':",
            "m::c passed, but is listed as a failure (wording)",
            "m::d skipped, but is listed as a failure (wording)",
            "m::e fails, and is not listed:",
            "m::g[2] passed, but is listed as a failure (other)",
            "m::gone is listed as a failure, but was not run",
        ]
