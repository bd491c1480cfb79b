"""Ctrl-C during training: weights, slots, sums and counter tell the same story afterwards."""

import os
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext.backends import replica
from tf_optim_ext.engine.interrupts import DeferredInterrupts

ACCUMULATING = {"gradient_accumulation_steps": 3}
OPTIONS = [{}, {"use_ema": True}, ACCUMULATING, {**ACCUMULATING, "use_ema": True}]


@pytest.fixture(autouse=True)
def own_handler():
    """Pytest's workers may have another one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


class InterruptedOps:
    """Sends an interrupt before the n-th of the small operations of a step."""

    def __init__(self, monkeypatch):
        self.countdown = None
        for name in ("add", "assign", "read"):
            monkeypatch.setattr(replica, name, self._counting(getattr(replica, name)))

    def _counting(self, function):
        def run(*args):
            if self.countdown is not None:
                self.countdown -= 1
                if self.countdown == 0:
                    interrupt()
            return function(*args)

        return run


def check_story(optimizer, variable, steps):
    """After steps of rate 1 with gradients of 1, from 0."""
    assert int(optimizer._iterations) == steps
    count = optimizer.gradient_accumulation_steps or 1
    assert float(variable) == -(steps // count)
    if count > 1:
        assert float(optimizer.get_slot(variable, "gradient_accumulator")) == steps % count


class TestSteps:
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_interrupted_anywhere(self, options, monkeypatch):
        ops, interrupts = InterruptedOps(monkeypatch), 0
        optimizer, variable = tf_optim_ext.SGD(1.0, **options), tf.Variable(0.0)
        for steps in range(40):
            ops.countdown = 1 + steps % 10
            try:
                optimizer.apply_gradients([(tf.constant(1.0), variable)])
            except KeyboardInterrupt:
                interrupts += 1
            ops.countdown = None
            check_story(optimizer, variable, steps + 1)
        assert interrupts > 3

    def test_interrupted_by_a_thread(self):
        optimizer, variable = tf_optim_ext.SGD(1.0, **ACCUMULATING), tf.Variable(0.0)
        gradient, interrupts = tf.constant(1.0), 0
        for _ in range(20):
            timer = threading.Timer(0.01, interrupt)
            try:
                timer.start()
                while True:
                    optimizer.apply_gradients([(gradient, variable)])
            except KeyboardInterrupt:
                interrupts += 1
            timer.join()
            check_story(optimizer, variable, int(optimizer._iterations))
        assert interrupts == 20

    def test_interrupted_first_step(self, monkeypatch):
        """Half of the slots would be worse than none."""
        optimizer, variable = tf_optim_ext.Adam(1.0), tf.Variable(0.0)
        add_slot = optimizer.add_slot

        def interrupted(*args, **kwargs):
            interrupt()
            return add_slot(*args, **kwargs)

        monkeypatch.setitem(optimizer.__dict__, "add_slot", interrupted)
        with pytest.raises(KeyboardInterrupt):
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
        assert int(optimizer.iterations) == 1
        assert optimizer.get_slot_names() == ["momentum", "velocity"]
        np.testing.assert_allclose(float(variable), -1.0, rtol=1e-5)


class TestContext:
    def test_handler_is_restored_and_called_once(self):
        calls = []
        signal.signal(signal.SIGINT, lambda *args: calls.append(args))
        handler = signal.getsignal(signal.SIGINT)
        with DeferredInterrupts():
            interrupt()
            interrupt()
            assert calls == []
        assert len(calls) == 1
        assert signal.getsignal(signal.SIGINT) is handler

    def test_errors_get_out(self):
        with pytest.raises(ValueError, match="mine"), DeferredInterrupts():
            raise ValueError("mine")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_nested(self):
        """The inner one hands on to the outer one, which raises at its end."""
        reached = []

        def run():
            with DeferredInterrupts():
                with DeferredInterrupts():
                    interrupt()
                reached.append("the end")

        with pytest.raises(KeyboardInterrupt):
            run()
        assert reached == ["the end"]

    def test_ignored_signals_stay_ignored(self):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with DeferredInterrupts():
            interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN

    def test_other_threads_have_no_signals(self):
        def run():
            with DeferredInterrupts():
                handlers.append(signal.getsignal(signal.SIGINT))

        handlers = []
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert handlers == [signal.default_int_handler]
