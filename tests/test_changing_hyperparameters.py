"""Hyperparameters that change between steps: set, or given as variable, callable or schedule."""

import json
import pickle

import numpy as np
import pytest
import registry
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, same, unchanged
from generation import KerasVariable, keras, only_keras_3
from modes import MODES, dense, fit, in_mode, modes

import tf_optim_ext
from tf_optim_ext.checks import Range

STEPS = 4
CANDIDATES = (0.25, 0.75, 0.4, 2.0, 5.0, -0.25, -0.75)
FORMS = ("set", "tf variable", "keras variable", "callable", "schedule")
# Each form and each mode alone says nearly as much as all pairs.
SHORT = {("set", "eager"), ("set", "xla"), *((form, "function") for form in FORMS)}
PAIRS = [
    pytest.param(form, mode, marks=() if (form, mode) in SHORT else pytest.mark.long)
    for form in FORMS
    for mode in MODES
]
CLIPPINGS = ("clipnorm", "clipvalue", "global_clipnorm")


def changed_arguments(entry):
    """Other values of everything that may change once the optimizer is built."""
    optimizer = entry.make()
    optimizer.build(make_variables())
    program, changed = optimizer._program(), {}
    for name, interval in entry.cls.declaration().intervals.items():
        before = getattr(optimizer, name)
        if name not in program.hyperparameters or interval == "boolean":
            continue
        if any(
            flag.hyperparameter == name and getattr(optimizer, flag.name) == flag.value
            for flag in entry.cls.declaration().derived.values()
        ):
            continue
        allowed = Range(interval)
        changed[name] = next(x for x in CANDIDATES if x in allowed and x != before)
    if optimizer.weight_decay is not None:
        changed["weight_decay"] = 0.3
    return changed


class Given:
    """Arguments in one of the forms, and a change to other numbers after some steps."""

    def __init__(self, form, before, after, change_at):
        self._form, self._after = form, after
        make = {"tf variable": tf.Variable, "keras variable": KerasVariable}.get(form, tf.Variable)
        self._variables = {name: make(x, dtype="float64") for name, x in before.items()}
        if form == "set":
            self.arguments = before
        elif form == "callable":
            self.arguments = {n: v.read_value for n, v in self._variables.items()}
        elif form == "schedule":
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay
            self.arguments = {
                name: schedule([change_at - 1], [float(x), float(after[name])])
                for name, x in before.items()
            }
        else:
            self.arguments = self._variables

    def change(self, optimizer):
        for name, value in self._after.items():
            if self._form == "set":
                setattr(optimizer, name, value)
            else:
                self._variables[name].assign(value)


def gradients_of(step):
    return [tf.constant(g) for g in make_gradients(step)]


def check_change(entry, form, mode, **options):
    """A change acts in the next step: as in an optimizer that was made with the other numbers."""
    after = changed_arguments(entry)
    plain = entry.make(**options)
    before = {name: getattr(plain, name) for name in after}
    given = Given(form, before, after, STEPS // 2)
    optimizer, variables = entry.make(**options, **given.arguments), make_variables()
    step = in_mode(mode, optimizer, variables)
    for i in range(STEPS // 2):
        step(gradients_of(i))
    other, expected = entry.make(**options, **after), make_variables()
    other.build(expected)
    other.set_weights(optimizer.get_weights())
    for variable, value in zip(expected, variables):
        variable.assign(value)
    given.change(optimizer)
    apply = in_mode(mode, other, expected)
    for i in range(STEPS // 2, STEPS):
        step(gradients_of(i))
        apply(gradients_of(i))
    rtol = 1e-5 if "xla" in mode else 1e-6
    assert_close(variables, expected, rtol=rtol)
    assert_close(optimizer.variables, other.variables, rtol=rtol)
    if not after:
        return
    unmoved, unchanged_optimizer = make_variables(), entry.make(**options)
    for i in range(STEPS):
        unchanged_optimizer.apply_gradients(zip(gradients_of(i), unmoved))
    assert not same(arrays(unmoved), arrays(variables)), "the change had no effect"


class TestEveryOptimizer:
    @pytest.mark.few
    def test_numbers_that_are_set_act_in_a_traced_function(self, entry):
        check_change(entry, "set", "function")

    @pytest.mark.few
    @pytest.mark.parametrize(("form", "mode"), PAIRS)
    def test_every_form_in_every_mode(self, entry, form, mode):
        check_change(entry, form, mode)

    @pytest.mark.parametrize("form", ["set", "callable"])
    def test_with_excluded_variables(self, form):
        entry = registry.BY_NAME["AdamW"]

        class Excluding:
            cls = entry.cls

            @staticmethod
            def make(**options):
                optimizer = entry.make(**options)
                optimizer.exclude_from_weight_decay(var_names=["bias"])
                return optimizer

        check_change(Excluding, form, "function")

    @pytest.mark.family
    def test_range_is_checked_when_set(self, entry):
        optimizer, variables = entry.make(), make_variables()
        optimizer.build(variables)
        for name, value in entry.bad.items():
            before = getattr(optimizer, name, None)
            if name in entry.cls.declaration().intervals or name == "weight_decay":
                with unchanged(optimizer, variables), pytest.raises(ValueError, match=f"`{name}`"):
                    setattr(optimizer, name, value)
                assert getattr(optimizer, name) is before

    def test_configuration_of_every_form(self, entry):
        after = changed_arguments(entry)
        for form in ("tf variable", "keras variable", "schedule"):
            given = Given(form, after, after, 2)
            optimizer = entry.make(**given.arguments)
            config = optimizer.get_config()
            assert json.loads(json.dumps(config)) == config
            restored = entry.cls.from_config(config)
            for name, value in after.items():
                is_schedule = form == "schedule"
                found = getattr(restored, name)
                assert float(found(0) if is_schedule else found) == pytest.approx(value)


class TestLearningRate:
    @modes
    @pytest.mark.parametrize("make", [tf.Variable, KerasVariable], ids=["tf", "keras"])
    def test_variable_is_followed(self, make, mode):
        rate, variables = make(0.5), make_variables()
        optimizer = tf_optim_ext.SGD(rate)
        step = in_mode(mode, optimizer, variables)
        step(gradients_of(0))
        rate.assign(0.0)
        with_rate = arrays(variables)
        step(gradients_of(1))
        assert same(arrays(variables), with_rate)
        # As with `OptimizerV2`, a number goes to the variable.
        optimizer.learning_rate = 0.25
        assert float(rate) == 0.25
        step(gradients_of(1))
        expected = [w - 0.25 * g for w, g in zip(with_rate, make_gradients(1))]
        assert_close(variables, expected)
        assert optimizer.get_config()["learning_rate"] == 0.25

    @only_keras_3("has other callbacks")
    def test_callbacks_set_the_variable(self):
        rate, model = tf.Variable(0.5), dense()
        model.compile(tf_optim_ext.SGD(rate), "mse")
        halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        x = np.ones((4, 3), np.float32)
        model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[halve])
        assert float(rate) == 0.125

    def test_variable_that_is_set_is_copied(self):
        """As in Keras: traced functions read the optimizer's own."""
        optimizer, rate, variables = tf_optim_ext.SGD(0.5), KerasVariable(0.25), make_variables()
        step = in_mode("function", optimizer, variables)
        step(gradients_of(0))
        count = len(optimizer.variables)
        optimizer.learning_rate = rate
        assert len(optimizer.variables) == count
        rate.assign(0.0)
        before = arrays(variables)
        step(gradients_of(1))
        assert_close(variables, [w - 0.25 * g for w, g in zip(before, make_gradients(1))])

    def test_two_optimizers_share_a_variable(self):
        rate = tf.Variable(0.5)
        optimizers = tf_optim_ext.SGD(rate), tf_optim_ext.Adam(rate)
        rate.assign(0.125)
        assert [float(o.learning_rate) for o in optimizers] == [0.125, 0.125]

    @pytest.mark.parametrize(
        ("variable", "message"),
        [(tf.Variable([0.1, 0.2]), r"shape \(2,\)"), (tf.Variable(1), "int32")],
    )
    def test_no_scalar_of_a_floating_point_dtype(self, variable, message):
        with pytest.raises(ValueError, match=f"`learning_rate`.*scalar.*{message}"):
            tf_optim_ext.SGD(variable)
        with pytest.raises(ValueError, match=f"`beta_1`.*scalar.*{message}"):
            tf_optim_ext.Adam(beta_1=variable)


class TestCommonArguments:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("name", CLIPPINGS)
    def test_clipping(self, name, mode):
        optimizer, variables = tf_optim_ext.SGD(0.1, **{name: 0.5}), make_variables()
        step = in_mode(mode, optimizer, variables)
        step(gradients_of(0))
        for value in (0.125, 0.0):  # 0 means no clipping
            setattr(optimizer, name, value)
            expected = make_variables()
            for variable, start in zip(expected, variables):
                variable.assign(start)
            other = tf_optim_ext.SGD(0.1, **{name: value} if value else {})
            other.apply_gradients(zip(gradients_of(1), expected))
            step(gradients_of(1))
            assert_close(variables, expected)

    @modes
    def test_loss_scale(self, mode):
        optimizer, variables = tf_optim_ext.SGD(0.1, loss_scale_factor=2.0), make_variables()
        step = in_mode(mode, optimizer, variables)
        step(gradients_of(0))
        optimizer.loss_scale_factor = 8.0
        for loss in (3.0, tf.constant(3.0), tf.constant(3.0, tf.bfloat16)):
            assert float(optimizer.scale_loss(loss)) == 24.0
        before = arrays(variables)
        step(gradients_of(1))
        assert_close(variables, [w - 0.1 * g / 8 for w, g in zip(before, make_gradients(1))])

    @modes
    def test_momentum_of_the_average(self, mode):
        optimizer = tf_optim_ext.SGD(0.1, use_ema=True, ema_momentum=0.5)
        variables = make_variables()
        step = in_mode(mode, optimizer, variables)
        step(gradients_of(0))
        before = arrays(optimizer.get_slot(v, "average") for v in variables)
        optimizer.ema_momentum = 0.875
        step(gradients_of(1))
        expected = [0.875 * a + 0.125 * w for a, w in zip(before, arrays(variables))]
        assert_close([optimizer.get_slot(v, "average") for v in variables], expected)

    def test_in_fit(self):
        """A momentum warm-up, the callback that people write."""

        class WarmUp(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                self.model.optimizer.momentum = momenta[epoch]

        momenta, results = (0.5, 0.75, 0.875), []
        for optimizer in (tf_optim_ext.SGD(0.1, momentum=0.5), None):
            model = dense()
            if optimizer:
                model.compile(optimizer, "mse")
                x = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
                model.fit(x, x[:, :1], epochs=3, batch_size=4, verbose=0, callbacks=[WarmUp()])
            else:
                state = None
                for momentum in momenta:
                    model.compile(tf_optim_ext.SGD(0.1, momentum=momentum), "mse")
                    model.optimizer.build(model.trainable_variables)
                    if state:
                        model.optimizer.set_weights(state)
                    fit(model, 1)
                    state = model.optimizer.get_weights()
            results.append(model.get_weights())
        assert_close(*results)

    def test_copies_are_independent(self):
        optimizer, variables = tf_optim_ext.SGD(0.1, momentum=0.5), make_variables()
        in_mode("function", optimizer, variables)(gradients_of(0))
        other = pickle.loads(pickle.dumps(optimizer))
        other.momentum = 0.75
        assert optimizer.momentum == 0.5

    def test_changes_none_of_the_state(self):
        optimizer, variables = tf_optim_ext.Adam(0.1), make_variables()
        in_mode("function", optimizer, variables)(gradients_of(0))
        with unchanged(optimizer, variables):
            optimizer.beta_1 = 0.5


class TestWhatCannotBeSet:
    def make(self, **arguments):
        optimizer, variables = tf_optim_ext.Adam(0.1, **arguments), make_variables()
        in_mode("function", optimizer, variables)(gradients_of(0))
        return optimizer

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("amsgrad", True),
            ("sparse", "lazy"),
            ("gradient_accumulation_steps", 2),
            ("use_ema", True),
            ("ema_overwrite_frequency", 3),
            ("row_wise", True),
            ("cautious", True),
            ("stochastic_rounding", True),
            ("seed", 1),
        ],
    )
    def test_options_of_a_built_optimizer(self, name, value):
        optimizer = self.make()
        setattr(optimizer, name, getattr(optimizer, name))
        with pytest.raises(AttributeError, match=rf"`{name}`.*built.*{name}={value!r}"):
            setattr(optimizer, name, value)

    def test_options_before_that(self):
        optimizer = tf_optim_ext.Adam(0.1)
        optimizer.amsgrad = True
        optimizer.build(make_variables())
        assert "velocity_hat" in optimizer.get_slot_names()

    def test_options_are_checked(self):
        optimizer = tf_optim_ext.Lamb(0.1)
        with pytest.raises(ValueError, match=r"`sparse`.*'exact'"):
            optimizer.sparse = "dense"
        with pytest.raises(ValueError, match="lazy"):
            optimizer.sparse = "lazy"
        assert optimizer.sparse == "exact"

    @pytest.mark.family
    def test_misspelt(self, entry):
        optimizer = entry.make()
        with pytest.raises(AttributeError, match=r"'learning_rte'.*did you mean 'learning_rate'"):
            optimizer.learning_rte = 0.5
        optimizer._anything = 1  # what is private is its owner's

    def test_attributes_of_classes_of_users(self):
        class Counting(tf_optim_ext.SGD):
            pass

        optimizer = Counting(0.1)
        optimizer.count = 3
        assert optimizer.count == 3

    @pytest.mark.parametrize("name", ["weight_decay", "clipnorm", "loss_scale_factor"])
    def test_switched_on_after_tracing(self, name):
        optimizer = self.make()
        with pytest.raises(ValueError, match=rf"`{name}` was None.*traced.*{name}=0.5"):
            setattr(optimizer, name, 0.5)

    @pytest.mark.parametrize("value", [tf.Variable(0.5), lambda: 0.5], ids=["variable", "callable"])
    def test_another_kind_after_tracing(self, value):
        optimizer = self.make()
        with pytest.raises(ValueError, match=r"`beta_1` was 0.9 when.*traced.*with a variable"):
            optimizer.beta_1 = value

    def test_switched_on_without_a_function(self):
        optimizer, variables = tf_optim_ext.SGD(0.5), make_variables()
        optimizer.apply_gradients(zip(gradients_of(0), variables))
        optimizer.weight_decay = 0.25
        before = arrays(variables)
        optimizer.apply_gradients(zip(gradients_of(1), variables))
        expected = [w - 0.5 * (0.25 * w + g) for w, g in zip(before, make_gradients(1))]
        assert_close(variables, expected)

    def test_second_clipping(self):
        optimizer = tf_optim_ext.SGD(0.1, clipnorm=1.0)
        with pytest.raises(ValueError, match="only one of clipnorm, clipvalue"):
            optimizer.clipvalue = 1.0

    def test_where_state_begins(self):
        optimizer = tf_optim_ext.Adagrad(0.1)
        optimizer.initial_accumulator_value = 0.5
        variables = make_variables()
        optimizer.build(variables)
        assert_close([optimizer.get_slot(variables[1], "accumulator")], [np.full(4, 0.5)])
        with pytest.raises(ValueError, match=r"`initial_accumulator_value`.*where state begins"):
            optimizer.initial_accumulator_value = 0.25

    def test_momentum_that_was_zero(self):
        optimizer, variables = tf_optim_ext.SGD(0.1), make_variables()
        optimizer.momentum = 0.5
        optimizer.momentum = 0.0
        optimizer.apply_gradients(zip(gradients_of(0), variables))
        with pytest.raises(ValueError, match=r"`momentum` was 0\.0 when.*built"):
            optimizer.momentum = 0.5
        with pytest.raises(AttributeError, match="`has_momentum` follows"):
            optimizer.has_momentum = True

    def test_wrong_name_of_the_learning_rate(self):
        with pytest.raises(TypeError, match=r"arguments \['lr'\]. The learning rate is `lea"):
            tf_optim_ext.SGD(lr=0.1)
