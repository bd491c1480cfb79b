"""Steps that `skip_nonfinite` leaves out: nothing changes but their count."""

import contextlib
import functools
import itertools

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import (
    arrays,
    assert_close,
    make_gradients,
    make_variables,
    same,
    train,
    unchanged,
)
from conftest import portable
from generation import LossScaleOptimizer, keras, scale_of
from modes import MODES, check_route, dense, fit, in_mode, modes
from test_graphs import InGraph, evaluated

import tf_optim_ext
from tf_optim_ext import SGD, Adam, Group
from tf_optim_ext.engine import clipping

ADAM = registry.BY_NAME["Adam"]
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
# All that surrounds an update.
FRAME = {
    "weight_decay": 0.1,
    "clipnorm": 0.5,
    "use_ema": True,
    "ema_momentum": 0.5,
    "ema_overwrite_frequency": 2,
}


def bad_gradients(value, position=0, dtype="float32"):
    gradients = make_gradients(7, dtype=dtype)
    gradients[position] = np.array(gradients[position])
    gradients[position][(-1,) * gradients[position].ndim] = value
    return gradients


def count(optimizer):
    return int(np.asarray(optimizer.skipped_steps))


def state(optimizer, variables):
    """Copies of all but the count."""
    skipped = optimizer.skipped_steps
    return arrays([*variables, *(v for v in optimizer.variables if v is not skipped)])


def check(step, optimizer, variables, bad, good=make_gradients, steps=3):
    """Takes bad steps between good ones, and compares with a run without them."""
    skipped = 0
    for i in range(steps):
        for gradients in bad:
            before = state(optimizer, variables)
            step(gradients)
            skipped += 1
            assert same(state(optimizer, variables), before)
            assert count(optimizer) == skipped
        step([tf.constant(g) for g in good(i)])
        assert count(optimizer) == skipped
    return state(optimizer, variables)


class TestNothingChanges:
    @pytest.mark.family
    def test_every_optimizer(self, entry):
        self.check(entry, lambda step: step)

    @pytest.mark.few
    def test_in_a_function(self, entry):
        self.check(entry, tf.function)

    def check(self, entry, wrap, **options):
        results = []
        for skips in (True, False):
            variables, optimizer = make_variables("tf"), entry.make(skip_nonfinite=skips, **options)
            optimizer.build(variables)
            apply = wrap(lambda *g, o=optimizer, v=variables: o.apply(list(g), v))
            bad = [bad_gradients(np.nan), bad_gradients(np.inf, 2)] if skips else []
            bad = [[tf.constant(g) for g in gradients] for gradients in bad]
            step = functools.partial(lambda gradients, apply: apply(*gradients), apply=apply)
            results.append(check(step, optimizer, variables, bad, steps=2))
            assert int(np.asarray(optimizer.iterations)) == 2
        assert same(*results)

    @modes
    def test_with_all_that_surrounds_an_update(self, mode):
        results = []
        for skips in (True, False):
            optimizer, variables = ADAM.make(skip_nonfinite=skips, **FRAME), make_variables("tf")
            bounded = tf.Variable(variables[0], constraint=lambda w: tf.clip_by_value(w, -1, 1))
            variables[0] = bounded
            optimizer.build(variables)
            step = in_mode(mode, optimizer, variables)
            bad = [bad_gradients(np.nan)] if skips else []
            results.append(check(step, optimizer, variables, tensors(bad)))
            check_route(mode, optimizer)
        assert_close(*results, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("value", NOT_FINITE)
    @pytest.mark.parametrize("position", range(3))
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_every_value_place_and_dtype(self, dtype, position, value):
        variables = make_variables("tf", dtype=dtype)
        optimizer = Adam(skip_nonfinite=True)
        good = functools.partial(make_gradients, dtype=dtype)
        bad = tensors([bad_gradients(value, position, dtype)])
        step = in_mode("eager", optimizer, variables)
        optimizer.build(variables)
        check(step, optimizer, variables, bad, good, 1)

    @pytest.mark.parametrize("clipping", [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}])
    def test_of_several_dtypes(self, clipping):
        dtypes = ("float64", "float16", "float32")
        variables = [tf.Variable(tf.ones(2, dtype)) for dtype in dtypes]
        optimizer = SGD(0.5, skip_nonfinite=True, **clipping)
        optimizer.build(variables)
        for i, value in itertools.product(range(3), NOT_FINITE):
            gradients = [tf.ones(2, dtype) for dtype in dtypes]
            gradients[i] *= tf.constant([1.0, value], dtypes[i])
            with same_weights(variables):
                optimizer.apply(gradients, variables)
        assert count(optimizer) == 9
        optimizer.apply([tf.ones(2, dtype) for dtype in dtypes], variables)
        assert count(optimizer) == 9
        assert all(float(v[0]) < 1.0 for v in variables)

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [("float32", 3e38), ("float64", 1e300), ("float16", 65504.0), ("bfloat16", 3e38)],
    )
    def test_large_gradients_are_finite(self, route, dtype, value):
        variable = tf.Variable(tf.zeros(64, dtype))
        optimizer = tf_optim_ext.SignSGD(0.5, skip_nonfinite=True)
        optimizer.build([variable])
        step = route.wrap(lambda g: optimizer.apply([g], [variable]))
        step(tf.fill([64], tf.constant(value, dtype)))
        assert count(optimizer) == 0
        assert np.all(np.asarray(variable) == -0.5)
        step(tf.fill([64], tf.constant(np.inf, dtype)))
        assert count(optimizer) == 1
        assert np.all(np.asarray(variable) == -0.5)
        if dtype != "float64":  # which is not native
            assert str(optimizer.route) == route.expected

    def test_frozen_variables_do_not_count(self):
        variables = make_variables("tf")
        optimizer = SGD(0.1, skip_nonfinite=True, groups=[Group("kernel", frozen=True)])
        optimizer.build(variables)
        gradients = bad_gradients(np.nan, 0)
        optimizer.apply_gradients(zip(map(tf.constant, gradients), variables))
        assert count(optimizer) == 0
        assert int(optimizer.iterations) == 1


def tensors(steps):
    return [[tf.constant(g) for g in gradients] for gradients in steps]


@contextlib.contextmanager
def same_weights(variables):
    before = arrays(variables)
    yield
    assert same(arrays(variables), before)


class TestWithOtherOptions:
    @pytest.mark.parametrize("mode", [*MODES[:3], pytest.param(MODES[3], marks=pytest.mark.long)])
    def test_accumulation(self, mode):
        self.check_accumulation(mode, "exact")

    @pytest.mark.parametrize(
        "mode", ["eager", "function", *(pytest.param(m, marks=pytest.mark.long) for m in MODES[2:])]
    )
    def test_accumulation_of_rows(self, mode):
        self.check_accumulation(mode, "lazy")

    def check_accumulation(self, mode, sparse):
        # A call that is skipped is not one of the calls that make an update.
        results = []
        for skips in (True, False):
            optimizer = ADAM.make(
                skip_nonfinite=skips, gradient_accumulation_steps=2, sparse=sparse, **FRAME
            )
            variables = make_variables("tf")
            optimizer.build(variables)
            step = in_mode(mode, optimizer, variables)
            bad = tensors([bad_gradients(np.inf, 1)]) if skips else []
            results.append(check(step, optimizer, variables, bad, steps=4))
        assert_close(*results, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize(
        ("mode", "sparse"),
        [
            *[(mode, "exact") for mode in MODES],
            *itertools.product(("eager", "function"), ("lazy", "catch_up")),
            pytest.param("portable xla", "catch_up", marks=pytest.mark.long),
        ],
    )
    def test_rows(self, mode, sparse):
        variable = tf.Variable(tf.ones((5, 2)))
        optimizer = Adam(0.5, sparse=sparse, skip_nonfinite=True, use_ema=True)
        optimizer.build([variable])
        step = in_mode(mode, optimizer, [variable])

        def rows(value):
            values = tf.constant([[1.0, 2.0], [3.0, value], [5.0, 6.0]])
            return [tf.IndexedSlices(values, tf.constant([3, 1, 3]), tf.constant([5, 2]))]

        step(rows(4.0))
        for value in NOT_FINITE:
            before = state(optimizer, [variable])
            step(rows(value))
            assert same(state(optimizer, [variable]), before)
        assert count(optimizer) == 3
        step(rows(4.0))
        assert int(np.asarray(optimizer.iterations)) == 2

    @pytest.mark.parametrize("option", ["clipnorm", "global_clipnorm"])
    @pytest.mark.parametrize("mode", ["eager", "function"])
    def test_norms_are_computed_once(self, monkeypatch, mode, option):
        calls = []
        original = clipping.squared_norms

        def squared_norms(*args):
            calls.append(args)
            return original(*args)

        monkeypatch.setattr(clipping, "squared_norms", squared_norms)
        optimizer, variables = SGD(0.1, skip_nonfinite=True, **{option: 0.5}), make_variables("tf")
        other, expected = SGD(0.1, **{option: 0.5}), make_variables("tf")
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        in_mode(mode, optimizer, variables)(gradients)
        assert len(calls) == 1
        other.apply(gradients, expected)
        # TensorFlow may round a graph otherwise.
        assert_close(variables, expected, rtol=1e-6)

    @pytest.mark.parametrize(
        "changes", [{"adaptive_clipping": 0.1}, {"centralize_gradients": True}]
    )
    def test_norms_of_changed_gradients_are_others(self, changes):
        results = []
        for skips in (True, False):
            optimizer = SGD(0.1, skip_nonfinite=skips, clipnorm=0.2, **changes)
            variables = make_variables("tf")
            train(optimizer, variables)
            results.append(arrays(variables))
        assert same(*results)

    def test_schedule_free_of_averaged_weights(self):
        # Inside XLA, a step from averaged weights does nothing: neither kind counts.
        optimizer = tf_optim_ext.ScheduleFreeSGD(0.1, skip_nonfinite=True)
        variables = make_variables("tf")
        optimizer.build(variables)
        apply = portable(lambda *given: optimizer.apply(list(given), variables))
        step = tf.function(apply, jit_compile=True)
        step(*tensors([make_gradients(0)])[0])
        optimizer.use_averaged_weights()
        before = state(optimizer, variables)
        step(*tensors([bad_gradients(np.nan)])[0])
        step(*tensors([make_gradients(3)])[0])
        assert same(state(optimizer, variables), before)
        assert count(optimizer) == 1

    @pytest.mark.parametrize("in_function", [False, True])
    def test_loss_scale_optimizer(self, in_function):
        optimizer, variables = ADAM.make(skip_nonfinite=True), make_variables()
        scaled = LossScaleOptimizer(optimizer, initial_scale=8.0)
        scaled.build(variables)

        def step(*gradients):
            scaled.apply_gradients(zip(gradients, variables))

        step = tf.function(step) if in_function else step
        before = arrays(variables)
        step(*tensors([bad_gradients(np.inf)])[0])
        assert same(arrays(variables), before)
        assert float(scale_of(scaled)) == 4.0
        step(*tensors([make_gradients(0)])[0])
        assert not same(arrays(variables), before)
        assert count(optimizer) == 0  # the other one was first

    @pytest.mark.parametrize("in_function", [False, True])
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda o: tf_optim_ext.Lookahead(o, sync_period=2),
            tf_optim_ext.MovingAverage,
            lambda o: tf_optim_ext.SWA(o, start_averaging=0, average_period=1),
        ],
        ids=["Lookahead", "MovingAverage", "SWA"],
    )
    def test_wrappers_follow_updates_only(self, wrap, in_function):
        results = []
        for skips in (True, False):
            optimizer, variables = wrap(SGD(0.1, skip_nonfinite=skips)), make_variables()
            optimizer.build(variables)
            step = in_mode("function" if in_function else "eager", optimizer, variables)
            for i in range(4):
                if skips:
                    step(tensors([bad_gradients(np.nan)])[0])
                step(tensors([make_gradients(i)])[0])
            assert count(optimizer) == 4 * skips
            results.append(state(optimizer, variables))
        assert_close(*results, rtol=1e-6, atol=1e-7)

    def test_option_set_after_wrapping(self):
        optimizer, variable = tf_optim_ext.SWA(SGD(1.0), average_period=1), tf.Variable([1.0])
        optimizer.skip_nonfinite = True
        for value in (np.nan, 1.0, np.nan, 1.0):
            optimizer.apply_gradients([(tf.constant([value], tf.float32), variable)])
        assert count(optimizer) == 2
        assert optimizer.get_slot(variable, "average").numpy().tolist() == [-0.5]

    def test_sharpness_aware_minimization(self):
        inner = SGD(0.1, skip_nonfinite=True)
        optimizer, variable = tf_optim_ext.SAM(inner), tf.Variable([1.0, 2.0])
        optimizer.step(lambda: tf.reduce_sum(variable**2) * np.float32(np.inf), [variable])
        assert variable.numpy().tolist() == [1.0, 2.0]
        assert count(inner) == 1
        optimizer.step(lambda: tf.reduce_sum(variable**2), [variable])
        assert int(np.asarray(inner.iterations)) == 1

    def test_several_optimizers_count_by_themselves(self):
        several = tf_optim_ext.MultiOptimizer(
            [(SGD(skip_nonfinite=True), dense().layers[0]), (SGD(), dense().layers[1])]
        )
        with pytest.raises(AttributeError, match="count `skipped_steps` by themselves"):
            _ = several.skipped_steps


class TestCount:
    def test_is_a_variable_only_with_the_option(self):
        optimizer, variables = ADAM.make(), make_variables()
        train(optimizer, variables, 1)
        assert optimizer.skipped_steps == 0
        names = [v.name for v in optimizer.variables]
        other = ADAM.make(skip_nonfinite=True)
        assert other.skipped_steps == 0
        other.build(variables)
        assert tf.as_dtype(other.skipped_steps.dtype) == tf.int64
        assert any(other.skipped_steps is v for v in other.variables)
        assert len(other.variables) == len(names) + 1

    def test_is_the_same_when_built_anew(self):
        optimizer, variables = ADAM.make(skip_nonfinite=True), make_variables()
        optimizer.apply(tensors([bad_gradients(np.nan)])[0], variables)
        with unchanged(optimizer, variables):
            optimizer.build(variables)

    def test_with_a_schedule_and_iterations(self):
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [1.0, 0.5])
        optimizer, variable = SGD(schedule, skip_nonfinite=True), tf.Variable([4.0])
        for value in (np.nan, 1.0, np.inf, 1.0):
            optimizer.apply_gradients([(tf.constant([value], tf.float32), variable)])
        assert variable.numpy().tolist() == [2.5]

    def test_argument(self):
        with pytest.raises(ValueError, match="skip_nonfinite"):
            SGD(skip_nonfinite="yes")
        optimizer = SGD()
        optimizer.skip_nonfinite = True
        optimizer.build(make_variables())
        with pytest.raises(AttributeError, match="cannot be changed"):
            optimizer.skip_nonfinite = False
        config = optimizer.get_config()
        assert config["skip_nonfinite"] is True
        assert SGD.from_config(config).skip_nonfinite is True
        assert "skip_nonfinite" not in SGD().get_config()

    def test_graph_of_a_session(self):
        run = InGraph(lambda: ADAM.make(skip_nonfinite=True))
        run.train(2)
        before = evaluated(run.session, run.variables)
        run.session.run(run.update, dict(zip(run.gradients, bad_gradients(np.nan))))
        assert same(evaluated(run.session, run.variables), before)
        counts = [run.optimizer.skipped_steps, run.optimizer.iterations]
        assert [int(c) for c in evaluated(run.session, counts)] == [1, 2]


class TestSaved:
    def trained(self, **options):
        model = dense()
        model.compile(ADAM.make(**{"skip_nonfinite": True, **options}), "mse")
        fit(model)
        gradients = [tf.fill(v.shape, np.float32("nan")) for v in model.trainable_variables]
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return model

    def test_in_a_keras_file(self, tmp_path):
        model = self.trained()
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        assert count(loaded.optimizer) == 1
        assert same(loaded.optimizer.get_weights(), model.optimizer.get_weights())
        for each in (model, loaded):
            fit(each)
        assert same(arrays(loaded.variables), arrays(model.variables))

    @pytest.mark.parametrize("built", [False, True])
    @pytest.mark.parametrize("alone", [False, True])
    def test_in_a_checkpoint(self, tmp_path, built, alone):
        variables, optimizer = make_variables("tf"), ADAM.make(skip_nonfinite=True)
        optimizer.apply(tensors([bad_gradients(np.nan)])[0], variables)
        train(optimizer, variables)
        parts = {} if alone else {"variables": variables}
        path = tf.train.Checkpoint(optimizer=optimizer, **parts).save(tmp_path / "checkpoint")
        other = ADAM.make(skip_nonfinite=True)
        copies = make_variables("tf")
        if built:
            other.build(copies)
        parts = {} if alone else {"variables": copies}
        tf.train.Checkpoint(optimizer=other, **parts).restore(path)
        other.build(copies)
        assert count(other) == 1
        assert same(other.get_weights(), optimizer.get_weights())

    @pytest.mark.parametrize("skips", [False, True])
    def test_the_option_may_change_in_between(self, skips):
        # The rest of the state is used: nothing warns.
        variables, optimizer = make_variables("tf"), ADAM.make(skip_nonfinite=skips)
        train(optimizer, variables)
        store = {}
        optimizer.save_own_variables(store)
        for built in (False, True):
            other = ADAM.make(skip_nonfinite=not skips)
            if built:
                other.build(variables)
            other.load_own_variables(store)
            other.build(variables)
            assert int(np.asarray(other.iterations)) == 3
            assert same(
                arrays([other.get_slot(v, "velocity") for v in variables]),
                arrays([optimizer.get_slot(v, "velocity") for v in variables]),
            )
