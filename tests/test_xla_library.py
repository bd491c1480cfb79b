"""The library for steps under XLA: how it is built, found, tried, and refused.

What it computes is tested by `test_inside_xla.py`.
"""

import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import common
import pytest
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import _keras, build
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import loader, self_test


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that the loader takes for its own, with a report of two libraries."""
    monkeypatch.setattr(loader, "HERE", tmp_path)
    monkeypatch.setattr(loader, "why_not", lambda: None)
    monkeypatch.delenv("TF_OPTIM_EXT_XLA", raising=False)
    write_report(tmp_path, xla_error=None, xla_bytes=3)
    return tmp_path


def write_report(folder, **entries):
    (folder / build.REPORT).write_text(json.dumps({"error": None, **entries}))


def why_not_loaded():
    library, reason = loader._load_for_xla()
    assert library is None
    return reason


class TestLoading:
    def test_in_use_where_it_was_built(self, native_only):
        # Here and not skipped, so that a library that does not work is noticed.
        report = json.loads((loader.HERE / loader.REPORT).read_text())
        if problem := report["xla_error"]:
            assert problem in native.why_not_inside_xla()
        elif loader.XLA_VARIABLE not in os.environ:
            assert native.why_not_inside_xla() is None

    @pytest.mark.parametrize("value", ["off", "OFF", "0", "none"])
    def test_off(self, folder, monkeypatch, value):
        monkeypatch.setenv("TF_OPTIM_EXT_XLA", value)
        assert why_not_loaded() == f"TF_OPTIM_EXT_XLA={value}"

    def test_unknown_value(self, folder, monkeypatch):
        monkeypatch.setenv("TF_OPTIM_EXT_XLA", "yes")
        assert why_not_loaded() == "TF_OPTIM_EXT_XLA=yes is unknown; allowed are off, on"

    def test_without_the_native_library(self, folder, monkeypatch):
        monkeypatch.setattr(loader, "why_not", lambda: "no compiler")
        assert why_not_loaded() == "no compiler"

    def test_not_built(self, folder):
        write_report(folder, xla_error="no such header")
        assert why_not_loaded() == "library for XLA not built: no such header"

    def test_missing(self, folder):
        assert "is damaged; reinstall tf_optim_ext" in why_not_loaded()

    @pytest.mark.parametrize("value", [None, "", "on"])
    def test_cut_off(self, folder, monkeypatch, value):
        if value is not None:
            monkeypatch.setenv("TF_OPTIM_EXT_XLA", value)
        (folder / build.XLA_LIBRARY).write_bytes(b"\x7fE")
        assert "is damaged; reinstall tf_optim_ext" in why_not_loaded()

    def test_no_library_at_all(self, folder):
        (folder / build.XLA_LIBRARY).write_bytes(b"abc")
        assert "library for XLA does not load" in why_not_loaded()


@pytest.fixture
def tried_again(native_inside_xla):
    """Has the library be tried again in the test, and after it."""
    native.why_not_inside_xla.cache_clear()
    yield
    loader.loaded_for_xla()[0].tf_optim_ext_use_inside_xla(True)
    native.why_not_inside_xla.cache_clear()
    assert native.why_not_inside_xla() is None


@pytest.fixture
def failing(tried_again, monkeypatch):
    """A library whose steps under XLA change no weight."""
    step = native.step

    def no_step_inside(*args):
        if not _keras.inside_xla():
            step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(self_test, "step", no_step_inside)
        yield native.why_not_inside_xla()


class TestSelfTest:
    def with_fault(self, monkeypatch, fault):
        """What the self-test says if `fault(steps, before)` is done after a step under XLA."""
        step = self_test._Steps.step

        def faulty(steps, gradients):
            before = step(steps, gradients)
            return fault(steps, before) if _keras.inside_xla() else before

        monkeypatch.setattr(self_test._Steps, "step", faulty)
        return self_test.problem()

    def test_finds_wrong_weights(self, monkeypatch, native_inside_xla):
        def fault(steps, before):
            steps.weights[1].assign(steps.weights[1] * 1.01)
            return before

        assert "weights are [[" in self.with_fault(monkeypatch, fault)

    def test_finds_wrong_slots(self, monkeypatch, native_inside_xla):
        def fault(steps, before):
            for slot in steps.slots[-1:]:
                slot.assign(slot * (1 + 2.0**-20))
            return before

        assert "slots are" in self.with_fault(monkeypatch, fault)

    def test_finds_what_was_written_over(self, monkeypatch, native_inside_xla):
        found = self.with_fault(
            monkeypatch, lambda steps, _: [tf.identity(v) for v in steps.weights]
        )
        assert "weights before the step are" in found

    def test_knows_an_answer(self, monkeypatch, native_inside_xla):
        monkeypatch.setattr(self_test, "RATE", 0.25)
        numbers = self_test.Scalars
        monkeypatch.setattr(self_test, "Scalars", lambda n, rate, *rest: numbers(n, 0.5, *rest))
        assert "weights of a known step are" in self_test.problem()

    def test_waits_not_for_ever(self, monkeypatch, native_inside_xla):
        release = threading.Event()
        monkeypatch.setattr(self_test, "check", lambda program: release.wait())
        monkeypatch.setattr(self_test, "SECONDS", 0.1)
        try:
            assert self_test.problem() == "the self-test did not end within 0.1 seconds"
        finally:
            release.set()

    def test_while_something_else_is_traced(self, tried_again):
        found = []
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        with strategy.scope():
            v = tf.Variable(2.0)

        @tf.function(jit_compile=True)
        def compiled(x):
            found.append(native.why_not_inside_xla())
            return x * x

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                y = compiled(tf.identity(v)) + tf.cond(
                    v > 0.0, lambda: compiled(v + 1.0), lambda: v
                )
            return tape.gradient(y, v)

        assert float(strategy.run(step)) == 10.0
        assert found
        assert set(found) == {None}

    def test_in_several_threads(self, tried_again):
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: native.why_not_inside_xla(), range(4)))
        assert found == [None] * 4

    def test_functions_run_eagerly(self, failing):
        tf.config.run_functions_eagerly(True)
        try:
            assert "the self-test failed" in self_test.problem()
        finally:
            tf.config.run_functions_eagerly(False)


class TestFailedSelfTest:
    def test_says_why(self, failing):
        assert failing.startswith("the self-test failed: ValueError: weights are")

    def test_steps_take_the_tensorflow_route(self, failing):
        v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
        optimizer.build([v])
        tf.function(lambda: optimizer.apply([tf.ones(2)], [v]), jit_compile=True)()
        assert str(optimizer.route) == f"tensorflow: inside XLA ({failing})"
        assert v.numpy().tolist() == [0.5, 1.5]

    @pytest.mark.parametrize("options", [{}, {"clipnorm": 1.0}])
    def test_traced_outside_and_called_inside_fails_cleanly(self, failing, options):
        v, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5, **options)
        optimizer.build([v])
        step = tf.function(lambda: optimizer.apply([tf.ones(2)], [v]))
        step()
        error = pytest.raises(tf.errors.InvalidArgumentError, match="traced outside of XLA")
        with common.unchanged(optimizer, [v]), error:
            tf.function(step, jit_compile=True)()


def test_without_a_header_of_xla(tmp_path, monkeypatch):
    """As with TensorFlow 2.19."""
    monkeypatch.setattr(build, "XLA_HEADER", "xla/ffi/api/none.h")
    message = f"TensorFlow {tf.__version__} comes without xla/ffi/api/none.h"
    with pytest.raises(build.BuildError, match=re.escape(message)):
        build.compile_for_xla(tmp_path / "xla_step.o")


class TestBuilding:
    @pytest.fixture(autouse=True)
    def _without_compiling(self, monkeypatch):
        def make(target):
            (target / build.LIBRARY).write_bytes(b"main")
            return {"tensorflow": "2.21.0"}

        monkeypatch.setattr(build, "build", make)
        monkeypatch.setattr(build, "compile_for_xla", lambda output: output.write_bytes(b"o"))
        monkeypatch.setattr(
            build,
            "link_for_xla",
            lambda compiled, target: (target / build.XLA_LIBRARY).write_bytes(b"for xla"),
        )

    def report(self, folder):
        return json.loads((folder / build.REPORT).read_text())

    def test_both(self, tmp_path):
        assert build.build_or_report(tmp_path) is None
        report = self.report(tmp_path)
        assert (report["error"], report["xla_error"]) == (None, None)
        assert (report["bytes"], report["xla_bytes"]) == (4, 7)

    @pytest.mark.parametrize("what", ["compile_for_xla", "link_for_xla"])
    def test_only_the_first(self, tmp_path, monkeypatch, what):
        def fail(*arguments):
            raise build.BuildError("no such header")

        (tmp_path / build.XLA_LIBRARY).write_bytes(b"of an earlier version")
        monkeypatch.setattr(build, what, fail)
        assert build.build_or_report(tmp_path) is None
        report = self.report(tmp_path)
        assert (report["error"], report["xla_error"]) == (None, "no such header")
        assert "xla_bytes" not in report
        assert not (tmp_path / build.XLA_LIBRARY).exists()

    def test_none(self, tmp_path, monkeypatch):
        def fail(target):
            raise build.BuildError("no compiler")

        monkeypatch.setattr(build, "build", fail)
        assert build.build_or_report(tmp_path) == "no compiler"
        assert self.report(tmp_path) == {"error": "no compiler"}
