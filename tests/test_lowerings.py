"""Every optimizer on every route: weights and slots after every step, in every dtype."""

import concurrent.futures
import functools
import itertools

import conftest
import ml_dtypes
import numpy as np
import precision
import pytest
import recordings
import references
import registry
import tensorflow as tf
from generation import only_keras_3, path_of

import tf_optim_ext
from tf_optim_ext.backends import numpy as numpy_lowering

STEPS = 12
# The last but one is longer than a segment of the native driver, the last is two of them and more.
SHAPES = ((), (1,), (7,), (3, 5), (0, 4), (17_000,), (1000, 33))

# How many roundings (`precision.ROUNDING`, relative to the largest magnitude so far) a float32
# result may be off after STEPS steps. A slot is an average or a sum: about four operations per
# step, whose errors it forgets as it forgets gradients. A weight sums the errors of all its
# updates, and the update's magnitude is at most the weight's: one rounding for the sum and a few
# for what is added, at each step. Both bounds are reached by no route; seen were 6.1 and 16.8, the
# same on all of them within a factor of two.
SLOTS = 12
WEIGHTS = 32
# The kernels evaluate the expressions that TensorFlow evaluates, in the same order; what differs is
# where a product and a sum are rounded together, and the order of sums of a reduction.
SLOTS_BETWEEN_ROUTES = 12
WEIGHTS_BETWEEN_ROUTES = 24
# A reference in float64: here the roundings are 2^-53, and 1e-12 is some thousand of them.
FLOAT64 = 1e-12 / precision.ROUNDING


# Their weights are computed anew at each step, or shrink.
MOVING_AT_REST = (tf_optim_ext.Ftrl, tf_optim_ext.ConditionalGradient)

# Every route; XLA, where each case takes seconds to compile, among the long tests.
BY_ROUTE = pytest.mark.parametrize(
    "route",
    [
        pytest.param(name, marks=pytest.mark.long) if name.endswith("xla") else name
        for name in conftest.ROUTES
    ],
    indirect=True,
)


@functools.cache
def initial_and_gradients(shape):
    """Weights and gradients in float32 with what an optimizer meets, and what it had better not.

    Elements have a magnitude of their own each, from 1e-30 to 1e8, change sign and are zero at
    times; some are zero throughout, two steps are zero altogether.
    """
    rng = np.random.default_rng([11, *shape])
    weights = rng.normal(size=shape) * rng.choice([0.0, 1e-3, 1.0, 10.0], size=shape)
    scale = rng.choice([0.0, 1e-30, 1e-12, 1e-4, 1.0, 1.0, 1.0, 1e3, 1e8], size=shape)
    gradients = rng.normal(size=(STEPS, *shape)) * scale
    gradients = gradients * (rng.random(gradients.shape) > 0.2)
    gradients[[0, 5] if len(shape) == 1 else [4, 5]] = 0
    return weights.astype(np.float32), gradients.astype(np.float32)


@functools.cache
def expected(name, shapes):
    """What the reference of a registry entry gives: for each shape a list of (weights, slots)."""
    weights, gradients = zip(*map(initial_and_gradients, shapes))
    return registry.BY_NAME[name].expected(weights, gradients)


def trajectory(optimizer, route, initial, gradients, slots):
    """Takes steps with several variables at once.

    Args:
        optimizer: not yet built.
        route: a `conftest.Route`.
        initial: list of arrays; variables get their shapes and dtypes.
        gradients: for each variable, an array of all gradients.
        slots: names of the slots to record.

    Returns:
        For each variable, a dict of lists of arrays: "w" and slots, initially and after each step.
    """
    variables = [tf.Variable(w) for w in initial]
    optimizer.build(variables)
    step = route.wrap(lambda *gs: optimizer.apply(list(gs), variables))
    found = [{"w": [], **{slot: [] for slot in slots}} for _ in variables]

    def record():
        for values, variable in zip(found, variables):
            values["w"].append(np.array(variable.numpy()))
            for slot in slots:
                values[slot].append(np.array(optimizer.get_slot(variable, slot).numpy()))

    record()
    for gs in zip(*gradients, strict=True):
        # A copy: TensorFlow may share the memory of an array.
        step(*(tf.constant(np.array(g)) for g in gs))
        record()
    return found


def assert_equals(values, reference_steps, weights=WEIGHTS, slots=SLOTS, what="", entry=None):
    """Compares what `trajectory` gave for one variable with (weights, slots) after every step."""
    looseness, underflow = (entry.looseness, entry.underflow) if entry else ({}, 0.0)
    for name, actual in values.items():
        wanted = [w if name == "w" else s[name] for w, s in reference_steps]
        first = actual[0]
        if np.isnan(first).all():  # nothing yet; what starts from the weights has their scale
            has_weights = name in ("z", "initial_weights", "average")
            first = values["w"][0] if has_weights else np.zeros_like(first)
            actual = [first, *actual[1:]]
        wanted = [np.asarray(first, np.float64), *wanted]
        worst = precision.roundings(actual, wanted, absolute=underflow)
        limit = (weights if name == "w" else slots) * looseness.get(name, 1)
        assert worst <= limit, f"{what} {name}: off by {worst:.1f} roundings, allowed {limit}"


def of_entry(entry, route, shapes):
    """The optimizer of a registry entry after STEPS steps, and its trajectory."""
    data = [initial_and_gradients(shape) for shape in shapes]
    weights, gradients = [w for w, _ in data], [g for _, g in data]
    optimizer = entry.make()
    return optimizer, trajectory(optimizer, route, weights, gradients, entry.slots)


def shapes_for(route):
    """Fewer are compiled sooner; the gradient of one of them is not zero at first."""
    return SHAPES[-4:-1] if route.name.endswith("xla") else SHAPES


def in_numpy(optimizer, weights, gradients):
    """What `trajectory` gives, computed in float64 by the NumPy lowering of the rule."""
    variables = [tf.Variable(w, dtype=tf.float64) for w in weights]
    optimizer.build(variables)
    program = optimizer._program()
    numbers = {name: float(v.numpy()) for name, v in optimizer.scalars.items()}
    names = (*program.slots, *program.variable_scalars)
    found = [
        {"w": [v.numpy()], **{n: [optimizer.get_slot(v, n).numpy()] for n in names}}
        for v in variables
    ]
    values = optimizer._hyperparameter_values(program.hyperparameters, variables)
    common = {"learning_rate": float(optimizer.learning_rate), "gradient_scale": 1.0}
    for step, gs in enumerate(zip(*gradients, strict=True), 1):
        arrays, scalars = [], []
        for own, g in zip(found, gs, strict=True):
            latest = {name: steps[-1] for name, steps in own.items()}
            arrays.append({**latest, "g": g})
            state = {name: latest[name] for name in program.variable_scalars}
            known = {**values, **common, **state, **numbers, "step": step}
            scalars.append({name: known[name] for name in program.scalars if name != "size"})
        with np.errstate(all="ignore"):
            results = numpy_lowering.run_all(program, arrays, scalars)
        for own, result in zip(found, results, strict=True):
            for name in own:
                own[name].append(result[name])
        numbers = {name: results[0][name] for name in numbers if name in results[0]}
    return found


class TestFloat32:
    @pytest.mark.family(conftest.BEST)
    def test_every_step_equals_the_reference(self, entry, route):
        shapes = shapes_for(route)
        optimizer, found = of_entry(entry, route, shapes)
        assert str(optimizer.route) == route.expected
        for shape, values, steps in zip(shapes, found, expected(entry.name, shapes)):
            assert set(values) == {"w", *entry.slots}
            assert_equals(values, steps, what=f"{shape}", entry=entry)

    @pytest.mark.parametrize(
        "route",
        conftest.shortened([r for r in conftest.ROUTES if r != "tensorflow"], [conftest.BEST]),
        indirect=True,
    )
    def test_every_step_equals_the_tensorflow_route(self, entry, route):
        """More closely than the reference."""
        shapes = shapes_for(route)
        _, found = of_entry(entry, route, shapes)
        _, of_tensorflow = of_entry(entry, conftest.Route("tensorflow"), shapes)
        for shape, values, others in zip(shapes, found, of_tensorflow):
            steps = [(w, {s: others[s][i] for s in entry.slots}) for i, w in enumerate(others["w"])]
            assert_equals(
                values,
                steps[1:],
                WEIGHTS_BETWEEN_ROUTES,
                SLOTS_BETWEEN_ROUTES,
                f"tensorflow and {route.name}, {shape}",
                entry,
            )

    @pytest.mark.family(conftest.BEST)
    @BY_ROUTE
    def test_a_zero_gradient_at_the_start_changes_nothing_but_decay(self, entry, route):
        if entry.cls in MOVING_AT_REST:
            pytest.skip("moves by itself")
        overrides = {"weight_decay": 0.0}
        if "l1_regularization_strength" in entry.arguments:
            overrides.update(l1_regularization_strength=0.0, l2_regularization_strength=0.0)
        optimizer = entry.make(**overrides)
        weights = np.array([1.0, -2.0, 0.0, 1e-30, 1e15], np.float32)
        variable = tf.Variable(weights)
        optimizer.build([variable])
        step = route.wrap(lambda g: optimizer.apply([g], [variable]))
        for _ in range(2):
            step(tf.zeros(5))
            np.testing.assert_array_equal(variable, weights)

    def test_the_data_have_what_they_should(self):
        weights, gradients = initial_and_gradients((1000, 33))
        magnitudes = np.abs(gradients)
        assert magnitudes.max() > 1e8
        assert magnitudes[magnitudes > 0].min() < 1e-30
        assert (magnitudes.max(axis=(1, 2)) == 0).sum() == 2
        assert (magnitudes.max(axis=0) == 0).any()
        assert (np.sign(gradients).min(axis=0) < 0).any()
        assert ((gradients > 0).any(axis=0) & (gradients < 0).any(axis=0)).mean() > 0.5
        assert (weights == 0).any()


class TestSpecialValues:
    """NaN and infinity go where IEEE's arithmetic takes them, and nowhere else."""

    @pytest.mark.family(conftest.BEST)
    @BY_ROUTE
    @pytest.mark.parametrize("clipvalue", [None, 0.5])
    def test_as_in_numpy(self, entry, route, clipvalue):
        special = [np.nan, np.inf, -np.inf, 0.0, 1.0]
        pairs = [*itertools.product(special, special), *[(1.0, 0.1)] * 9]
        weights, first = np.array(pairs, np.float32).T
        second = np.roll(first, 2)
        optimizer = entry.make(clipvalue=clipvalue)
        gradients = np.stack([first, second])
        (found,) = trajectory(optimizer, route, [weights], [gradients], entry.slots)
        assert str(optimizer.route) == route.expected
        (wanted,) = in_numpy(entry.make(clipvalue=clipvalue), [weights], [gradients])
        for name, steps in wanted.items():
            for actual, value in zip(found[name], steps, strict=True):
                np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.once
class TestNumPyBackend:
    @pytest.mark.family
    def test_equals_the_reference(self, entry):
        weights, gradients = zip(*map(initial_and_gradients, SHAPES))
        found = in_numpy(entry.make(), weights, gradients)
        for shape, values, steps in zip(SHAPES, found, expected(entry.name, SHAPES)):
            assert set(entry.slots) <= set(values)
            values = {name: values[name] for name in ("w", *entry.slots)}
            assert_equals(values, steps, FLOAT64, FLOAT64, f"{shape}", entry)


# What the same maths is given in the registry.
LOOSE = {
    name: next(e for e in registry.ENTRIES if e.reference is references.find(name))
    for name in ("cocob", "prodigy")
}
OPTIONS = {
    "cautious_adamw": (tf_optim_ext.AdamW, "cautious"),
    "cautious_lion": (tf_optim_ext.Lion, "cautious"),
    "cautious_decay_adamw": (tf_optim_ext.AdamW, "cautious_weight_decay"),
}
RECORDINGS = sorted(recording.name for recording in recordings.RECORDINGS)
# All of them are compared with their references, too: see `test_references.py`.
FIRST_OF_A_REFERENCE = {r.reference: r.name for r in reversed(recordings.RECORDINGS)}.values()
OF_REPRESENTATIVE = {
    r.name
    for r in recordings.RECORDINGS
    if r.name in FIRST_OF_A_REFERENCE
    and any(
        registry.BY_NAME[name].reference is references.find(r.reference)
        for name in registry.REPRESENTATIVE
    )
}


class TestRecordings:
    """The optimizers do what other implementations were recorded to do."""

    # 25 steps, of float32 against float64, and also of float32 against another float32.
    WEIGHTS = 60
    SLOTS = 16

    def load(self, name, dtype):
        path = recordings.DIRECTORY / f"{name}.npz"
        metadata, variables = recordings.load(path)
        classes = {cls.__name__.lower(): cls for cls in tf_optim_ext.optimizers.ALL}
        arguments = dict(metadata["arguments"])
        if metadata["reference"] == "yogi":
            arguments["beta1"], arguments["beta2"] = (
                arguments.pop("beta_1"),
                arguments.pop("beta_2"),
            )
        if metadata["reference"] == "sophia":
            pytest.skip("has estimates of the Hessian between the steps: see test_particulars.py")
        if metadata["reference"] in OPTIONS:
            cls, option = OPTIONS[metadata["reference"]]
            optimizer = cls(**arguments, **{option: True})
        else:
            optimizer = classes[metadata["reference"]](**arguments)
        weights = [v["initial"].astype(dtype) for v in variables]
        gradients = [v["gradients"].astype(dtype) for v in variables]
        program = optimizer._program()

        def slots_of(variable, i):
            found = {s: x[i] for s, x in variable["slots"].items() if s in program.slots}
            # The recording repeats a number for all elements.
            return found | {s: variable["slots"][s][i].flat[0] for s in program.variable_scalars}

        steps = [[(w, slots_of(v, i)) for i, w in enumerate(v["weights"])] for v in variables]
        return metadata, optimizer, weights, gradients, steps

    @pytest.mark.parametrize(
        "route",
        [
            name if name == conftest.BEST else pytest.param(name, marks=pytest.mark.long)
            for name in conftest.ROUTES
        ],
        indirect=True,
    )
    @pytest.mark.parametrize("name", conftest.shortened(RECORDINGS, FIRST_OF_A_REFERENCE))
    def test_float32(self, name, route):
        metadata, optimizer, weights, gradients, steps = self.load(name, np.float32)
        found = trajectory(optimizer, route, weights, gradients, steps[0][0][1])
        assert str(optimizer.route) == route.expected
        for values, wanted in zip(found, steps, strict=True):
            assert_equals(
                values, wanted, self.WEIGHTS, self.SLOTS, name, LOOSE.get(metadata["reference"])
            )

    @pytest.mark.once
    @pytest.mark.parametrize("name", conftest.shortened(RECORDINGS, OF_REPRESENTATIVE))
    def test_float64(self, name):
        metadata, optimizer, weights, gradients, steps = self.load(name, np.float64)
        if metadata["dtype"] != "float64":
            pytest.skip("was recorded in float32")
        # As a number it would be rounded to a float32 variable.
        rate = metadata["arguments"].get("learning_rate", 1.0)
        optimizer.learning_rate = lambda: tf.constant(rate, tf.float64)
        route = conftest.Route("tensorflow")
        found = trajectory(optimizer, route, weights, gradients, steps[0][0][1])
        loose = LOOSE.get(metadata["reference"])
        for values, wanted in zip(found, steps, strict=True):
            assert_equals(values, wanted, FLOAT64, FLOAT64, name, loose)


class TestKeras:
    @pytest.mark.family
    @only_keras_3("see test_migration.py")
    def test_equals_the_built_in_optimizer(self, entry):
        if entry.keras is None:
            pytest.skip("Keras has no equal")
        # Keras forms 1 - beta^t in float32, where it loses the digits of beta^t's distance to 1.
        builtin = getattr(tf.keras.optimizers, entry.keras)(**entry.arguments)
        shapes = [shape for shape in SHAPES if 0 not in shape]  # Keras' Lion takes no empty ones
        data = [initial_and_gradients(shape) for shape in shapes]
        variables = [tf.Variable(w) for w, _ in data]
        builtin.build(variables)
        wanted: list = [[] for _ in shapes]
        count = len(entry.slots)
        for gs in zip(*(g for _, g in data)):
            builtin.apply([tf.constant(g) for g in gs], variables)
            slots = {
                s: [v for v in builtin.variables if path_of(v).endswith(s)] for s in entry.slots
            }
            for i, variable in enumerate(variables):
                own = {name: np.array(slots[name][i]) for name in slots}
                wanted[i].append((np.array(variable), own))
        assert all(len(own) == count for steps in wanted for _, own in steps)
        weights, gradients = [w for w, _ in data], [g for _, g in data]
        found = trajectory(entry.make(), conftest.Route("default"), weights, gradients, entry.slots)
        for shape, values, steps in zip(shapes, found, wanted):
            assert_equals(values, steps, 2 * WEIGHTS, 2 * SLOTS, f"{shape}", entry)


def in_16_bits(shape, dtype, gradient_dtype):
    """Weights and gradients without what overflows in float16."""
    weights, gradients = initial_and_gradients(shape)
    return weights.astype(dtype), np.clip(gradients, -1e4, 1e4).astype(gradient_dtype)


class TestSixteenBits:
    """Storage alone is in 16 bits: what is computed is what float32 weights would give."""

    # Up to the length of the blocks that are converted: sums over several are in another order.
    SHAPES = ((), (7,), (1021,))
    STEPS = 3

    @BY_ROUTE
    def test_equals_float32_rounded_to_nearest_even(self, entry, route):
        bfloat16, float16 = ml_dtypes.bfloat16, np.float16
        kinds = itertools.product(self.SHAPES, (bfloat16, float16), (np.float32, bfloat16, float16))
        data = [in_16_bits(*kind) for kind in kinds]
        weights = [w for w, _ in data]
        optimizer = entry.make()
        gradients = [g[-self.STEPS :] for _, g in data]
        found = trajectory(optimizer, route, weights, gradients, entry.slots)
        assert str(optimizer.route) == route.expected
        # The twin starts each step from the rounded weights.
        twin = entry.make()
        variables = [tf.Variable(w.astype(np.float32)) for w in weights]
        twin.build(variables)
        step = route.wrap(lambda *gs: twin.apply(list(gs), variables))
        # XLA fuses the two programs differently.
        exact = route.name != "xla"
        for i in range(self.STEPS):
            for variable, values in zip(variables, found):
                variable.assign(values["w"][i].astype(np.float32))
            step(*(tf.constant(g[i].astype(np.float32)) for g in gradients))
            for variable, values in zip(variables, found):
                with np.errstate(over="ignore"):
                    wanted = variable.numpy().astype(values["w"][0].dtype)
                actual = values["w"][i + 1]
                assert actual.dtype == wanted.dtype
                distance = np.abs(_ordered(actual) - _ordered(wanted))
                assert np.all(distance <= (0 if exact else 1)), distance
                assert np.sum(distance) <= 0.01 * distance.size + 1, distance
                for slot in entry.slots:
                    actual, wanted = values[slot][i + 1], twin.get_slot(variable, slot).numpy()
                    assert actual.dtype == (
                        np.float32 if slot in optimizer._program().slots else np.float64
                    )
                    if exact:
                        np.testing.assert_array_equal(actual, wanted)


def _ordered(x):
    """Integers in the order of 16-bit numbers, one apart where those are neighbours."""
    bits = np.asarray(x).view(np.int16).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF), bits)


class TestOtherDtypes:
    @pytest.mark.parametrize("of_gradients", [np.float64, ml_dtypes.bfloat16])
    @pytest.mark.parametrize(
        "name", ["default", "tensorflow", pytest.param("xla", marks=pytest.mark.long)]
    )
    def test_float64(self, entry, name, of_gradients):
        route = conftest.Route(name)
        optimizer = entry.make()
        weights, gradients = initial_and_gradients((3, 5))
        gradients = gradients.astype(of_gradients)
        weights = weights.astype(np.float64) + 1e-12
        (found,) = trajectory(optimizer, route, [weights], [gradients], entry.slots)
        if name != "default":
            assert str(optimizer.route) == route.expected
        elif conftest.POSSIBLE:
            assert str(optimizer.route) == "tensorflow: weights of dtype float64"
        assert all(value.dtype == np.float64 for values in found.values() for value in values)
        (wanted,) = entry.expected([weights], [gradients.astype(np.float64)])
        assert_equals(found, wanted, FLOAT64, FLOAT64, entry=entry)

    @BY_ROUTE
    def test_gradients_of_another_dtype_are_cast(self, entry, route):
        weights, gradients = in_16_bits((3, 5), np.float32, np.float16)
        gradients = gradients[-4:].astype(ml_dtypes.bfloat16).astype(np.float16)  # fit all
        found = [
            trajectory(entry.make(), route, [weights], [gradients.astype(dtype)], ())[0]["w"]
            for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)
        ]
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])

    @BY_ROUTE
    def test_mixed_in_one_step(self, entry, route):
        if entry.is_joint:
            pytest.skip("variables do not update as they would alone")
        bfloat16, float16 = ml_dtypes.bfloat16, np.float16
        kinds = [
            ((7,), np.float32, np.float32),
            ((3, 5), bfloat16, np.float32),
            ((1030,), float16, float16),
            ((), np.float32, bfloat16),
            ((7,), float16, np.float32),
        ]
        data = [in_16_bits(*kind) for kind in kinds]
        optimizer = entry.make()
        weights, gradients = [w for w, _ in data], [g[-3:] for _, g in data]
        together = trajectory(optimizer, route, weights, gradients, entry.slots)
        assert str(optimizer.route) == route.expected
        if route.name == "xla":  # which fuses differently when there is more
            return
        for w, g, values in zip(weights, gradients, together):
            (alone,) = trajectory(entry.make(), route, [w], [g], entry.slots)
            for name in values:
                np.testing.assert_array_equal(values[name], alone[name])

    def test_float64_beside_float32(self, entry):
        if entry.is_joint:
            pytest.skip("variables do not update as they would alone")
        weights, gradients = initial_and_gradients((3, 5))
        optimizer = entry.make()
        variables = [tf.Variable(weights), tf.Variable(weights.astype(np.float64))]
        for g in gradients[-3:]:
            optimizer.apply([tf.constant(g), tf.constant(g)], variables)
        assert optimizer.route.kind == "tensorflow"
        with tf_optim_ext.portable():
            for dtype, variable in zip((np.float32, np.float64), variables):
                other = entry.make()
                alone = tf.Variable(weights.astype(dtype))
                for g in gradients[-3:]:
                    other.apply([tf.constant(g)], [alone])
                np.testing.assert_array_equal(variable, alone)


@pytest.fixture
def step():
    """A function that takes a step and returns its route."""
    variable = tf.Variable([1.0, 2.0])
    optimizer = tf_optim_ext.SGD(0.5)

    def run():
        optimizer.apply([tf.ones(2)], [variable])
        return str(optimizer.route)

    return run


PORTABLE = "tensorflow: inside portable()"


class TestPortable:
    def usual(self, step):
        route = step()
        assert route != PORTABLE
        return route

    def test_switches_while_active(self, step):
        usual = self.usual(step)
        with tf_optim_ext.portable():
            assert step() == PORTABLE
        assert step() == usual

    def test_nested(self, step):
        usual = self.usual(step)
        with tf_optim_ext.portable():
            with tf_optim_ext.portable():
                assert step() == PORTABLE
            assert step() == PORTABLE
        assert step() == usual

    def test_ends_with_an_exception(self, step):
        usual = self.usual(step)
        with pytest.raises(KeyError), tf_optim_ext.portable(), tf_optim_ext.portable():
            raise KeyError
        assert step() == usual

    def test_used_twice(self, step):
        usual = self.usual(step)
        for _ in range(2):
            with tf_optim_ext.portable():
                assert step() == PORTABLE
            assert step() == usual

    def test_as_a_decorator(self, step):
        assert tf_optim_ext.portable()(step)() == PORTABLE

    def test_holds_for_all_threads(self, step):
        # Strategies run replicas in threads of their own.
        usual = self.usual(step)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with tf_optim_ext.portable():
                assert pool.submit(step).result() == PORTABLE
            assert pool.submit(step).result() == usual

    def test_a_traced_function_stays_as_it_was(self):
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.SGD(0.5)
        optimizer.build([variable])

        @tf.function
        def step():
            optimizer.apply([tf.ones(2)], [variable])

        with tf_optim_ext.portable():
            step()
        types = {op.type for op in step.get_concrete_function().graph.get_operations()}
        assert not any("OptimExt" in name for name in types)
        step()
        np.testing.assert_array_equal(variable, [0.0, 1.0])

    def test_a_function_that_was_traced_before(self, native_only):
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.SGD(0.5)
        optimizer.build([variable])

        @tf.function
        def step():
            optimizer.apply([tf.ones(2)], [variable])

        step()
        with tf_optim_ext.portable():
            step()
        types = [op.type for op in step.get_concrete_function().graph.get_operations()]
        assert types.count("TfOptimExtStep") == 1


class TestRoute:
    def test_before_the_first_step(self):
        assert str(tf_optim_ext.SGD().route) == "none: no step was run or traced yet"

    def test_of_a_rule_that_the_library_has_not(self, native_only):
        class Halving(tf_optim_ext.Optimizer):
            @staticmethod
            def rule(w, g, s, h):
                return 0.5 * w - h.learning_rate * g

        variable = tf.Variable([2.0, 4.0])
        optimizer = Halving(1.0)
        optimizer.apply([tf.constant([0.5, 0.25])], [variable])
        assert str(optimizer.route) == "tensorflow: the rule is not in the native library"
        np.testing.assert_array_equal(variable, [0.5, 1.75])

    def test_sparse_step_traced_outside_and_called_inside_xla_fails_cleanly(self, native_only):
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.SGD(0.5)
        optimizer.build([variable])

        @tf.function
        def step():
            rows = tf.IndexedSlices(tf.ones(1), tf.constant([1]))
            optimizer.apply([rows], [variable])

        step()
        before = variable.numpy()
        with pytest.raises(tf.errors.InvalidArgumentError, match="traced outside of XLA"):
            tf.function(step, jit_compile=True)()
        np.testing.assert_array_equal(variable, before)
        assert int(optimizer.iterations) == 1
