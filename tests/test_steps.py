"""Weights and slots equal the references after every step, on every route and in every mode."""

import numpy as np
import pytest
import record_trajectories
import registry
import tensorflow as tf

from tf_optim_ext.lowering import numpy as numpy_lowering

SHAPES = [(), (1,), (7,), (3, 5), (0, 4), (100, 33), (16385,)]
STEPS = 10
# Rounding: a step makes about a dozen roundings of half a unit each, relative to the largest
# magnitude that took part, and earlier ones decay at most as slowly as the slots.
ULPS = 40


def gradients_of(shapes, steps=STEPS, seed=3):
    """Gradients with zeros, sign changes, an all-zero step, and huge and tiny magnitudes."""
    numbers = np.random.default_rng(seed)
    result = []
    for t in range(steps):
        scale = [1.0, 1e-3, 1e4, 1e-12, 1.0][t % 5]
        row = [
            np.asarray(scale * numbers.normal(size=s) * (numbers.random(s) > 0.2), np.float32)
            for s in shapes
        ]
        result.append([np.zeros_like(g) for g in row] if t == 6 else row)
    return result


def weights_of(shapes, dtype=np.float32):
    numbers = np.random.default_rng(4)
    return [np.asarray(numbers.normal(size=s), dtype) for s in shapes]


def assert_close(actual, expected, largest, label):
    """Compares with a tolerance in units of the largest magnitude each element has had."""
    tolerance = ULPS * np.finfo(np.float32).eps * largest + 1e-37
    error = np.abs(np.asarray(actual, np.float64) - expected)
    assert np.all(error <= tolerance), f"{label}: {np.max(error / tolerance):.3g} of tolerance"


def follow(entry, step, optimizer, variables, gradients, weights):
    """Runs `step` on every list of gradients and compares with the reference after each."""
    expected = [
        entry.reference(w.astype(np.float64), [g[i].astype(np.float64) for g in gradients],
                        **entry.arguments)
        for i, w in enumerate(weights)
    ]  # fmt: skip
    largest = [{"w": np.abs(w.astype(np.float64))} for w in weights]
    for t, row in enumerate(gradients):
        step([tf.constant(g) for g in row])
        for i, variable in enumerate(variables):
            theta, slots = next(expected[i])
            for name, value in {"w": theta, **slots}.items():
                actual = variable if name == "w" else optimizer.get_slot(variable, name)
                largest[i][name] = np.maximum(largest[i].get(name, 0.0), np.abs(value))
                bound = np.max(largest[i][name], initial=0.0) * np.ones_like(value)
                label = f"step {t}, variable {i}, {name}"
                assert_close(actual.numpy(), value, bound, label)
    assert int(optimizer.iterations) == len(gradients)


def test_every_route_follows_the_reference(entry, route):
    weights, gradients = weights_of(SHAPES), gradients_of(SHAPES)
    variables = [tf.Variable(w) for w in weights]
    optimizer = entry.make()
    optimizer.build(variables)
    assert tuple(optimizer.get_slot_names()) == entry.slots
    step = route.wrap(lambda g: optimizer.apply_gradients(zip(g, variables)))
    follow(entry, step, optimizer, variables, gradients, weights)
    assert optimizer.route == route.expected


def test_tf_function_follows_the_reference_and_does_not_retrace(entry):
    weights, gradients = weights_of(SHAPES), gradients_of(SHAPES)
    variables = [tf.Variable(w) for w in weights]
    optimizer = entry.make()
    traces = []

    @tf.function
    def step(g):
        traces.append(1)
        optimizer.apply_gradients(zip(g, variables))

    follow(entry, step, optimizer, variables, gradients, weights)
    # TensorFlow traces twice where the first trace creates variables; the slots are made outside.
    assert len(traces) == 1


def test_numpy_lowering_equals_the_reference(entry):
    program = entry.make()._program()
    for shape in [(), (7,), (3, 5)]:
        arrays = {"w": weights_of([shape], np.float64)[0]}
        arrays.update({name: np.zeros(shape) for name in entry.slots})
        gradients = [g[0].astype(np.float64) for g in gradients_of([shape])]
        expected = entry.reference(arrays["w"], gradients, **entry.arguments)
        for t, gradient in enumerate(gradients, 1):
            h = {name: entry.arguments.get(name) or 0.0 for name in program.hyperparameters}
            h |= {"step": t, "learning_rate": entry.arguments["learning_rate"]}
            h |= {"gradient_scale": 1.0, "clipvalue": np.inf}
            arrays = numpy_lowering.run(program, {**arrays, "g": gradient}, h)
            theta, slots = next(expected)
            np.testing.assert_allclose(arrays["w"], theta, rtol=1e-11, atol=1e-300)
            for name, value in slots.items():
                np.testing.assert_allclose(arrays[name], value, rtol=1e-11, atol=1e-300)


def test_native_and_tensorflow_routes_agree(entry, native_only):
    import tf_optim_ext

    shapes = [(), (33,), (64, 65)]
    results = []
    for portable in (False, True):
        variables = [tf.Variable(w) for w in weights_of(shapes)]
        optimizer = entry.make()
        for row in gradients_of(shapes):
            if portable:
                with tf_optim_ext.portable():
                    optimizer.apply_gradients(zip(row, variables))
            else:
                optimizer.apply_gradients(zip(row, variables))
        results.append([v.numpy() for v in (*variables, *optimizer.variables[2:])])
    for native, tensorflow in zip(*results):
        largest = max(1.0, np.max(np.abs(native), initial=0.0))
        assert np.max(np.abs(native - tensorflow)) <= 8 * np.finfo(np.float32).eps * largest


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("wide_gradients", [False, True])
def test_16_bit_weights(entry, route, dtype, wide_gradients):
    """Slots are float32, and the weights are the float32 result, rounded to nearest."""
    shapes = [(), (37,), (40, 41)]
    start = [tf.cast(w, dtype) for w in weights_of(shapes)]
    narrow, wide = [tf.Variable(w) for w in start], [tf.Variable(tf.cast(w, "float32")) for w in start]
    ours, control = entry.make(), entry.make()
    step = route.wrap(lambda g: ours.apply_gradients(zip(g, narrow)))
    control_step = route.wrap(lambda g: control.apply_gradients(zip(g, wide)))
    for row in gradients_of(shapes, 5):
        rounded = [tf.cast(tf.clip_by_value(g, -1e3, 1e3), dtype) for g in row]
        gradients = [tf.cast(g, tf.float32) for g in rounded]
        for variable, control_variable in zip(narrow, wide):
            control_variable.assign(tf.cast(variable, tf.float32))
        step(gradients if wide_gradients else rounded)
        control_step(gradients)
        for variable, control_variable in zip(narrow, wide):
            assert variable.dtype == dtype
            expected = tf.cast(control_variable, dtype).numpy().astype(np.float32)
            # A fused and an unfused product may fall on different sides of a rounding boundary.
            ulp = float(2.0 ** (-7 if dtype == tf.bfloat16 else -10))
            np.testing.assert_allclose(
                variable.numpy().astype(np.float32), expected, rtol=0 if route.name in registry_native
                else ulp, atol=0 if route.name in registry_native else 1e-7)  # fmt: skip
            for name in entry.slots:
                assert ours.get_slot(variable, name).dtype == "float32"
    assert ours.route == route.expected


registry_native = ("baseline", "avx2", "avx512")


def test_float64_weights_take_the_tensorflow_route(entry):
    variable = tf.Variable([1.0, -2.0], dtype=tf.float64)
    optimizer = entry.make()
    optimizer.apply_gradients([(tf.constant([0.5, 0.25], tf.float64), variable)])
    expected, _ = next(
        entry.reference(np.array([1.0, -2.0]), [np.array([0.5, 0.25])], **entry.arguments)
    )
    # The learning rate is a float32 variable, as in Keras.
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-8)
    assert optimizer.route.startswith("tensorflow: ")


@pytest.mark.parametrize(
    "path", sorted(record_trajectories.DIRECTORY.glob("*.npz")), ids=lambda path: path.stem
)
def test_recorded_trajectories(path, route):
    """Implementations that others trust: torch, optax, Keras."""
    metadata, variables = record_trajectories.load(path)
    classes = {e.reference.__name__: e.cls for e in registry.ENTRIES}
    if metadata["reference"] not in classes:
        pytest.skip(f"no optimizer for the reference {metadata['reference']} yet")
    optimizer = classes[metadata["reference"]](**metadata["arguments"])
    weights = [tf.Variable(v["initial"].astype(np.float32)) for v in variables]
    step = route.wrap(lambda g: optimizer.apply_gradients(zip(g, weights)))
    largest = [np.abs(v["initial"]) for v in variables]
    for t in range(len(variables[0]["gradients"])):
        step([tf.constant(v["gradients"][t].astype(np.float32)) for v in variables])
        for i, v in enumerate(variables):
            largest[i] = np.maximum(largest[i], np.abs(v["weights"][t]))
            bound = np.max(largest[i], initial=0.0)
            assert_close(weights[i].numpy(), v["weights"][t], bound, f"step {t}, variable {i}")
