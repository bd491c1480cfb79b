"""Sparse gradients for every optimizer and on every route: exact, lazy, and catching up."""

import functools

import conftest
import numpy as np
import pytest
import registry
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf_optim_ext
from tf_optim_ext import Slot
from tf_optim_ext.backends import numpy as numpy_lowering

ROWS, WIDTH, STEPS, COUNT = 9, 3, 5, 6
SHAPE = (ROWS, WIDTH)

BY_ROUTE = pytest.mark.parametrize(
    "route",
    [
        pytest.param(name, marks=pytest.mark.long) if name == "xla" else name
        for name in conftest.ROUTES
        if name != "native xla"  # where sparse gradients take the TensorFlow route
    ],
    indirect=True,
)


def possible(**options):
    """Whether an optimizer can have some options, by entry."""

    def holds(entry):
        try:
            entry.make(**options)
        except ValueError:  # whose text the tests of refusals check
            return False
        return True

    return [entry for entry in registry.ENTRIES if holds(entry)]


LAZY = possible(sparse="lazy")
CATCHING_UP = possible(sparse="catch_up")


def table_and_steps(seed, steps=STEPS, count=COUNT):
    """Weights, and steps of (indices, values); indices are repeated, unsorted, and miss rows."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(steps):
        some = rng.permutation(ROWS)[: rng.integers(1, ROWS)]
        found.append((rng.choice(some, count), rng.normal(size=(count, WIDTH)).astype(np.float32)))
    return rng.normal(size=SHAPE).astype(np.float32), found


def densified(indices, values):
    dense = np.zeros(SHAPE, np.float32)
    np.add.at(dense, indices, values)
    return dense


def slices(indices, values):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices, tf.int64), SHAPE)


class Trainer:
    """An optimizer and its table, with steps on one route."""

    def __init__(self, optimizer, table, route):
        self.optimizer, self.table = optimizer, tf.Variable(table)
        optimizer.build([self.table])
        self._route = route
        self._sparse = route.wrap(
            lambda i, v: optimizer.apply([tf.IndexedSlices(v, i, SHAPE)], [self.table])
        )
        self._dense = route.wrap(lambda g: optimizer.apply([g], [self.table]))

    def sparse(self, indices, values):
        self._sparse(tf.constant(indices, tf.int64), tf.constant(values))
        assert str(self.optimizer.route) == self._route.expected

    def dense(self, indices, values):
        self._dense(tf.constant(densified(indices, values)))

    def state(self):
        """Weights and slots, by name."""
        names = self.optimizer.get_slot_names()
        return {
            "w": self.table.numpy(),
            **{name: self.optimizer.get_slot(self.table, name).numpy() for name in names},
        }


def assert_same(actual, expected, bits):
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        if bits:
            assert value.tobytes() == expected[name].tobytes(), name
        else:
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


class InNumPy:
    """Updates of rows in float64, by the NumPy lowering of an optimizer's own rule."""

    def __init__(self, optimizer, table):
        variable = tf.Variable(table, dtype=tf.float64)
        optimizer.build([variable])
        self._program = optimizer._program()
        names = (*self._program.slots, *self._program.variable_scalars)
        self.state = {"w": variable.numpy()}
        self.state.update({n: optimizer.get_slot(variable, n).numpy() for n in names})
        self._h = optimizer._hyperparameter_values(self._program.hyperparameters, [variable])
        self._h.update(learning_rate=float(optimizer.learning_rate), gradient_scale=1.0)

    def update(self, step, rows, gradients):
        program = self._program
        arrays = {name: self.state[name][rows] for name in ("w", *program.slots)}
        arrays["g"] = gradients[rows].astype(np.float64)
        known = {**self._h, "step": step}
        known.update({name: self.state[name][rows] for name in program.variable_scalars})
        scalars = {name: known[name] for name in program.scalars if name != "size"}
        with np.errstate(all="ignore"):
            new = numpy_lowering.run(program, arrays, scalars)
        for name in self.state:
            self.state[name][rows] = new[name]


def assert_close_to(actual, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=3e-4, atol=1e-5, err_msg=name)


class TestExact:
    @BY_ROUTE
    @settings(
        max_examples=3,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(seed=st.integers(0, 2**32), count=st.sampled_from([0, 1, COUNT]))
    def test_equals_the_dense_gradient(self, entry, route, seed, count):
        if route.name == "xla":
            count = COUNT  # compiled once
        table, steps = table_and_steps(seed, count=count)
        sparse = Trainer(entry.make(sparse="exact"), table, route)
        dense = Trainer(entry.make(sparse="exact"), table, route)
        for step in steps:
            sparse.sparse(*step)
            dense.dense(*step)
            assert_same(sparse.state(), dense.state(), bits=route.name in conftest.INSTRUCTION_SETS)


class TestLazy:
    @pytest.mark.family(conftest.BEST)
    @BY_ROUTE
    @pytest.mark.parametrize("entry", LAZY, ids=lambda entry: entry.name)
    def test_equals_the_rule_on_the_present_rows(self, entry, route):
        table, steps = table_and_steps(1)
        trainer = Trainer(entry.make(sparse="lazy"), table, route)
        expected = InNumPy(entry.make(sparse="lazy"), table)
        for number, (indices, values) in enumerate(steps, 1):
            before = trainer.state()
            trainer.sparse(indices, values)
            present = np.unique(indices)
            expected.update(number, present, densified(indices, values))
            after = trainer.state()
            assert_close_to(after, expected.state)
            others = np.setdiff1d(np.arange(ROWS), present)
            for name in after:
                assert after[name][others].tobytes() == before[name][others].tobytes(), name

    def test_rules_of_whole_variables_refuse(self):
        refused = {entry.cls for entry in registry.ENTRIES} - {entry.cls for entry in LAZY}
        assert {tf_optim_ext.Lamb, tf_optim_ext.NovoGrad, tf_optim_ext.Prodigy} <= refused
        assert len(LAZY) > 40


class TestCatchUp:
    @pytest.mark.family(conftest.BEST)
    @BY_ROUTE
    @pytest.mark.parametrize("entry", CATCHING_UP, ids=lambda entry: entry.name)
    def test_slots_of_a_row_that_returns_are_exact(self, entry, route):
        # The exact optimizer, dense and in NumPy, has the slots; weights decay by hand.
        table, steps = table_and_steps(2, steps=8)
        optimizer = entry.make(sparse="catch_up")
        trainer = Trainer(optimizer, table, route)
        exact = InNumPy(entry.make(), table)
        rows_alone = InNumPy(entry.make(), table)
        values = optimizer._hyperparameter_values(
            optimizer._program().hyperparameters, [trainer.table]
        )
        rate = 1.0 if optimizer.fully_decoupled_weight_decay else float(optimizer.learning_rate)
        # SGDW's decay is not multiplied by the learning rate.
        rate = 1.0 if entry.cls is tf_optim_ext.SGDW else rate
        kept = 1 - rate * values["weight_decay"]
        last = np.zeros(ROWS)
        for number, (indices, gradient_values) in enumerate(steps, 1):
            trainer.sparse(indices, gradient_values)
            present, dense = np.unique(indices), densified(indices, gradient_values)
            missed = number - 1 - last[present]
            rows_alone.state["w"][present] *= (kept**missed)[:, None]
            for name in set(exact.state) - {"w"}:
                rows_alone.state[name][present] = exact.state[name][present]
            rows_alone.update(number, present, dense)
            exact.update(number, np.arange(ROWS), dense)
            last[present] = number
            found = trainer.state()
            assert_close_to({"w": found["w"]}, {"w": rows_alone.state["w"]})
            for name in set(exact.state) - {"w"}:
                assert_close_to({name: found[name][present]}, {name: exact.state[name][present]})
            np.testing.assert_array_equal(found["last_step"], last)

    def test_the_weights_decay_as_if_they_had_not_been_away(self):
        # Without momentum and gradient nothing else moves them.
        optimizer = tf_optim_ext.SGD(0.1, weight_decay=0.5, sparse="catch_up")
        table = tf.Variable(np.ones((3, 1), np.float32))
        for row in (0, 0, 0, 1):
            optimizer.apply([tf.IndexedSlices(tf.zeros([1, 1]), tf.constant([row]))], [table])
        np.testing.assert_allclose(table[:, 0], [0.95**3, 0.95**4, 1.0], rtol=1e-6)

    @pytest.mark.parametrize("number", ["step", "learning_rate", "gradient_scale", "weight_decay"])
    def test_factors_that_vary_are_refused(self, number):
        class Varying(tf_optim_ext.Optimizer):
            state = [Slot("m")]

            @staticmethod
            def rule(w, g, s, h):
                s.m = getattr(h, number) * s.m + g
                return w - h.learning_rate * s.m

        with pytest.raises(ValueError, match="'m' changes by more than a constant factor"):
            Varying(sparse="catch_up")

    def test_which_rules_cannot(self):
        able = {entry.cls for entry in CATCHING_UP}
        for name in ("SGD", "Adam", "AdamW", "Lion", "RMSprop", "Adagrad", "RectifiedAdam"):
            assert getattr(tf_optim_ext, name) in able
        with pytest.raises(ValueError, match="'velocity_hat' changes by more than a constant"):
            tf_optim_ext.Adam(amsgrad=True, sparse="catch_up")
        with pytest.raises(ValueError, match="'velocity' changes by more than a constant factor"):
            tf_optim_ext.AdaBelief(sparse="catch_up")
        with pytest.raises(ValueError, match="norms or scalars of whole variables"):
            tf_optim_ext.Lamb(sparse="catch_up")
        with pytest.raises(ValueError, match="norms or scalars of whole variables"):
            tf_optim_ext.AdamW(cautious=True, sparse="catch_up")


def row_wise_adagrad(table, gradients, learning_rate, initial_accumulator_value, epsilon):
    """One accumulator per row, of the mean of squares, as fbgemm's `EXACT_ROWWISE_ADAGRAD`."""
    w = table.astype(np.float64)
    a = np.full(len(w), initial_accumulator_value)
    for g in gradients:
        g = g.astype(np.float64)
        a = a + (g**2).mean(axis=1)
        w = w - learning_rate * g / np.sqrt(a + epsilon)[:, None]
        yield {"w": w, "accumulator": a}


def row_wise_adam(table, gradients, learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay):
    """One second moment per row, as fbgemm's `PARTIAL_ROWWISE_ADAM`; Keras' bias correction."""
    w, m = table.astype(np.float64), np.zeros(table.shape)
    v, highest = np.zeros(len(w)), np.zeros(len(w))
    for t, g in enumerate(gradients, 1):
        g = g.astype(np.float64)
        w = w - learning_rate * weight_decay * w
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * (g**2).mean(axis=1)
        highest = np.maximum(highest, v)
        root = np.sqrt(highest if amsgrad else v)
        alpha = learning_rate * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        w = w - alpha * m / (root + epsilon)[:, None]
        yield {
            "w": w,
            "momentum": m,
            "velocity": v,
            **({"velocity_hat": highest} if amsgrad else {}),
        }


ADAM = {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1}
ADAGRAD = {"learning_rate": 0.1, "initial_accumulator_value": 0.3, "epsilon": 1e-3}
ROW_WISE = {
    "AdamW": (tf_optim_ext.AdamW, row_wise_adam, {**ADAM, "amsgrad": False}),
    "AdamW-amsgrad": (tf_optim_ext.AdamW, row_wise_adam, {**ADAM, "amsgrad": True}),
    "Adagrad": (tf_optim_ext.Adagrad, row_wise_adagrad, ADAGRAD),
}
by_name = pytest.mark.parametrize("name", ROW_WISE)


class TestRowWise:
    @by_name
    @BY_ROUTE
    @pytest.mark.parametrize("kind", ["sparse", "dense"])
    def test_equals_the_reference(self, name, route, kind):
        cls, reference, arguments = ROW_WISE[name]
        table, steps = table_and_steps(3)
        trainer = Trainer(cls(row_wise=True, **arguments), table, route)
        expected = reference(table, [densified(*step) for step in steps], **arguments)
        for step, wanted in zip(steps, expected, strict=True):
            getattr(trainer, kind)(*step)
            found = trainer.state()
            assert found.keys() == wanted.keys()
            assert_close_to(found, wanted)

    @by_name
    @BY_ROUTE
    def test_lazy_equals_the_rule_on_the_present_rows(self, name, route):
        cls, _, arguments = ROW_WISE[name]
        table, steps = table_and_steps(4)
        make = functools.partial(cls, row_wise=True, sparse="lazy", **arguments)
        trainer, expected = Trainer(make(), table, route), InNumPy(make(), table)
        for number, (indices, values) in enumerate(steps, 1):
            trainer.sparse(indices, values)
            expected.update(number, np.unique(indices), densified(indices, values))
            assert_close_to(trainer.state(), expected.state)

    @pytest.mark.parametrize("name", ["AdamW", "Adagrad"])
    @BY_ROUTE
    def test_catching_up_has_the_exact_slots(self, name, route):
        cls, _, arguments = ROW_WISE[name]
        table, steps = table_and_steps(5, steps=8)
        trainer = Trainer(cls(row_wise=True, sparse="catch_up", **arguments), table, route)
        exact = InNumPy(cls(row_wise=True, **arguments), table)
        for number, (indices, values) in enumerate(steps, 1):
            trainer.sparse(indices, values)
            exact.update(number, np.arange(ROWS), densified(indices, values))
            present, found = np.unique(indices), trainer.state()
            for slot in set(exact.state) - {"w"}:
                assert_close_to({slot: found[slot][present]}, {slot: exact.state[slot][present]})

    def test_one_number_for_each_row(self):
        shapes = {(5, 3): (5,), (2, 3, 4): (2,), (7,): (7,), (): (1,), (0, 3): (0,), (3, 0): (3,)}
        optimizer = tf_optim_ext.Adam(0.1, row_wise=True)
        variables = [tf.Variable(tf.ones(shape)) for shape in shapes]
        optimizer.apply([tf.fill(v.shape, 2.0) for v in variables], variables)
        for variable, shape in zip(variables, shapes.values(), strict=True):
            slot = optimizer.get_slot(variable, "velocity")
            assert slot.shape == shape
            assert slot.dtype == "float64"
            np.testing.assert_allclose(variable, np.full(variable.shape, 0.9), rtol=1e-5)

    def test_rows_of_one_number_are_elementwise(self):
        rng = np.random.default_rng(0)
        weights, gradients = rng.normal(size=6), rng.normal(size=(4, 6))
        results = []
        for row_wise in (True, False):
            variable = tf.Variable(weights, dtype=tf.float32)
            optimizer = tf_optim_ext.Adam(0.1, row_wise=row_wise)
            for gradient in gradients:
                optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
            results.append(variable.numpy())
        np.testing.assert_allclose(*results, rtol=1e-6)

    @pytest.mark.parametrize("options", [{"row_wise": True}, {"sparse": "catch_up"}], ids=str)
    def test_state_survives(self, options, tmp_path):
        table, steps = table_and_steps(6)

        def train(optimizer, variable, some):
            for step in some:
                optimizer.apply([slices(*step)], [variable])

        def make():
            return tf_optim_ext.AdamW(0.1, **options)

        whole, expected = make(), tf.Variable(table)
        train(whole, expected, steps)
        first, variable = make(), tf.Variable(table)
        train(first, variable, steps[:2])
        store = {}
        first.save_own_variables(store)
        path = tf.train.Checkpoint(optimizer=first, table=variable).save(str(tmp_path / "all"))
        weights = variable.numpy()

        stored, again = make(), tf.Variable(weights)
        stored.load_own_variables(store)
        train(stored, again, steps[2:])
        np.testing.assert_array_equal(again, expected)

        restored, again = make(), tf.Variable(tf.zeros(SHAPE))
        status = tf.train.Checkpoint(optimizer=restored, table=again).restore(path)
        restored.build([again])
        status.assert_consumed()
        train(restored, again, steps[2:])
        np.testing.assert_array_equal(again, expected)

    def test_config(self):
        optimizer = tf_optim_ext.Adagrad(0.1, row_wise=True, sparse="catch_up")
        clone = tf_optim_ext.Adagrad.from_config(optimizer.get_config())
        assert clone.row_wise is True
        assert clone.sparse == "catch_up"
        assert "row_wise" not in tf_optim_ext.Adagrad(0.1).get_config()

    def test_refused(self):
        with pytest.raises(ValueError, match="`row_wise` is not possible: there is nothing"):
            tf_optim_ext.SGD(0.1, row_wise=True)
        with pytest.raises(ValueError, match="`row_wise` is not possible: its update needs norms"):
            tf_optim_ext.Adam(0.1, row_wise=True, cautious=True)
        with pytest.raises(ValueError, match="row_wise"):
            tf_optim_ext.Adam(0.1, row_wise="yes")
