"""Accumulation, the rule and averages in one pass: the same numbers as one after the other."""

import contextlib
import functools

import conftest
import numpy as np
import pytest
import tensorflow as tf
from common import arrays, same
from modes import in_mode
from test_lowerings import assert_equals

import tf_optim_ext
from tf_optim_ext import native
from tf_optim_ext.engine.route import Route

STEPS = 6
# More than a segment of the driver, and rows; none, and one.
SHAPES = ((20_000,), (7, 5), (0, 4), ())
COUNT = 2
OPTIONS = {
    "ema": {"use_ema": True, "ema_momentum": 0.7},
    "accumulation": {"gradient_accumulation_steps": COUNT},
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "loss_scale": {"loss_scale_factor": 8.0},
}
COMBINATIONS = [
    ("ema",),
    ("accumulation",),
    ("accumulation", "ema"),
    ("accumulation", "clipnorm"),
    ("ema", "global_clipnorm"),
    ("accumulation", "ema", "global_clipnorm"),
    ("accumulation", "ema", "clipvalue", "loss_scale"),
]
combinations = pytest.mark.parametrize("names", COMBINATIONS, ids="+".join)
needs_library = pytest.mark.skipif(bool(native.why_not()), reason="no native library")


def options_of(names):
    return {k: v for name in names for k, v in OPTIONS[name].items()}


@functools.cache
def problem(dtype="float32"):
    """Weights, and the gradients of each step: pairs of them do not cancel."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape) for shape in SHAPES]
    gradients = []
    for step in range(STEPS):
        if step % COUNT:
            own = [g * rng.uniform(0.25, 2, g.shape) for g in gradients[-1]]
        else:
            own = [rng.normal(size=s) * rng.choice([0.0, 1e-3, 1.0, 30.0], size=s) for s in SHAPES]
        gradients.append([np.asarray(g, np.float32) for g in own])
    dtype = tf.as_dtype(dtype).as_numpy_dtype
    return [np.asarray(w, np.float32).astype(dtype) for w in weights], gradients


@contextlib.contextmanager
def one_after_the_other():
    """Switches fused steps off."""
    before = Route.is_fused
    Route.is_fused = property(lambda route: False)
    try:
        yield
    finally:
        Route.is_fused = before


def run(optimizer, mode="eager", dtype="float32", prepared=lambda g: g):
    """The state after each step."""
    weights, gradients = problem(dtype=dtype)
    variables = [tf.Variable(w) for w in weights]
    step, found = in_mode(mode, optimizer, variables), []
    for own in gradients:
        step([prepared(tf.constant(g)) for g in own])
        found.append(arrays([*variables, *optimizer.variables]))
    return found


def assert_same(entry_or_make, mode="eager", **kwargs):
    fused = run(entry_or_make(), mode, **kwargs)
    with one_after_the_other():
        apart = run(entry_or_make(), mode, **kwargs)
    for step, (a, b) in enumerate(zip(fused, apart, strict=True), 1):
        assert same(a, b), f"step {step}"


@needs_library
class TestSameBits:
    @pytest.mark.family
    def test_every_optimizer(self, entry):
        assert_same(lambda: entry.make(**options_of(("accumulation", "ema"))))

    def test_with_sums_that_are_complete(self, entry):
        names = ("accumulation", "ema", "global_clipnorm")
        assert_same(lambda: entry.make(**options_of(names)))

    @combinations
    @pytest.mark.parametrize("mode", ["function", pytest.param("xla", marks=pytest.mark.long)])
    def test_modes(self, names, mode):
        assert_same(lambda: tf_optim_ext.AdamW(0.1, **options_of(names)), mode)

    def test_inside_xla(self):
        names = ("accumulation", "ema", "clipnorm")
        assert_same(lambda: tf_optim_ext.Lamb(0.1, **options_of(names)), "xla")

    @pytest.mark.parametrize("stochastic", [False, True], ids=["nearest", "stochastic"])
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_16_bits(self, dtype, stochastic):
        names = ("accumulation", "ema", "clipvalue", "loss_scale")
        options = {**options_of(names), "stochastic_rounding": stochastic}
        half = functools.partial(tf.cast, dtype=dtype)
        assert_same(lambda: tf_optim_ext.AdamW(0.1, **options), dtype=dtype, prepared=half)

    def test_tiny_loss_scale_in_sums(self):
        # The factor is less than any normal float32.
        options = {"loss_scale_factor": 1e40, "gradient_accumulation_steps": COUNT}
        large = lambda g: g * 1e38  # noqa: E731
        assert_same(lambda: tf_optim_ext.SGD(0.1, momentum=0.5, **options), prepared=large)

    @pytest.mark.parametrize("name", ["Adam", "Adagrad"])
    @pytest.mark.parametrize("shape", [(40, 5), (3, 20_000)], ids=str)
    def test_row_wise(self, name, shape):
        def train():
            cls = getattr(tf_optim_ext, name)
            optimizer = cls(0.1, row_wise=True, **options_of(("accumulation", "ema")))
            rng, found = np.random.default_rng(0), []
            variable = tf.Variable(rng.normal(size=shape).astype("f4"))
            for _ in range(4):
                gradient = tf.constant(rng.normal(size=shape).astype("f4"))
                optimizer.apply_gradients([(gradient, variable)])
                found.append(arrays([variable, *optimizer.variables]))
            return found

        fused = train()
        with one_after_the_other():
            for a, b in zip(fused, train(), strict=True):
                assert same(a, b)

    @pytest.mark.parametrize("sparse", ["exact", "lazy", "catch_up"])
    @pytest.mark.parametrize("names", COMBINATIONS[:3], ids="+".join)
    def test_rows(self, names, sparse):
        def train():
            optimizer = tf_optim_ext.Adam(0.1, sparse=sparse, **options_of(names))
            rng, found = np.random.default_rng(0), []
            table = tf.Variable(rng.normal(size=(9000, 3)).astype("f4"))
            dense = tf.Variable(rng.normal(size=(4,)).astype("f4"))
            for _ in range(4):
                values = tf.constant(rng.normal(size=(5, 3)).astype("f4"))
                rows = tf.IndexedSlices(values, tf.constant([8999, 0, 5, 0, 6000]), (9000, 3))
                gradient = tf.constant(rng.normal(size=(4,)).astype("f4"))
                optimizer.apply_gradients([(rows, table), (gradient, dense)])
                found.append(arrays([table, dense, *optimizer.variables]))
            return found

        fused = train()
        with one_after_the_other():
            for a, b in zip(fused, train(), strict=True):
                assert same(a, b)

    def test_missing_gradients(self):
        """Averages of what has no gradient in a step move, too."""

        def train():
            optimizer = tf_optim_ext.AdamW(0.1, use_ema=True, ema_momentum=0.5)
            variables, found = [tf.Variable([1.0, 2.0]), tf.Variable([3.0])], []
            optimizer.build(variables)
            for step in range(4):
                pairs = list(zip([tf.constant([1.0, -1.0]), tf.constant([0.5])], variables))
                optimizer.apply_gradients(pairs[step % 2 :][:1])
                found.append(arrays([*variables, *optimizer.variables]))
            return found

        fused = train()
        with one_after_the_other():
            for a, b in zip(fused, train(), strict=True):
                assert same(a, b)


def composed(entry, names):
    """What the papers give: for each shape, weights and slots after every update."""
    weights, gradients = problem()
    every = COUNT if "accumulation" in names else 1
    factor = 1 / OPTIONS["loss_scale"]["loss_scale_factor"] if "loss_scale" in names else 1.0
    updates = []
    for first in range(0, STEPS, every):
        own = [
            sum(g.astype(np.float64) for g in of_variable) * factor / every
            for of_variable in zip(*gradients[first : first + every])
        ]
        norms = [np.linalg.norm(g) for g in own]
        if "clipnorm" in names:
            own = [g * min(1.0, 0.5 / n) if n else g for g, n in zip(own, norms)]
        if "global_clipnorm" in names:
            own = [g * min(1.0, 0.5 / np.linalg.norm(norms)) for g in own]
        if "clipvalue" in names:
            own = [np.clip(g, -0.3, 0.3) for g in own]
        updates.append(own)
    found = entry.expected(weights, [np.stack(g) for g in zip(*updates)])
    return [list(_with_averages(of_variable)) for of_variable in found]


def _with_averages(steps):
    average = None
    for w, slots in steps:
        average = w if average is None else 0.7 * average + 0.3 * w
        yield w, {**slots, "average": average}


class TestReferences:
    """Against the float64 references, with gradients and averages composed by hand."""

    @pytest.mark.parametrize(
        "route",
        [
            *dict.fromkeys(["tensorflow", conftest.BEST]),
            pytest.param("xla", marks=pytest.mark.long),
            pytest.param("native xla", marks=pytest.mark.long),
        ],
        indirect=True,
    )
    @pytest.mark.parametrize(
        "names",
        [
            pytest.param(names, marks=() if names in COMBINATIONS[5:] else pytest.mark.long)
            for names in COMBINATIONS
        ],
        ids="+".join,
    )
    def test_every_step(self, entry, route, names):
        weights, gradients = problem()
        optimizer = entry.make(**options_of(names))
        variables = [tf.Variable(w) for w in weights]
        optimizer.build(variables)
        step = route.wrap(lambda *gs: optimizer.apply(list(gs), variables))
        every = COUNT if "accumulation" in names else 1
        # A difference of gradients has their rounding errors, however small it is.
        kinds = [slot for slot in entry.slots if slot != "difference"]
        kinds += ["average"] * ("ema" in names)
        found = [{"w": [], **{kind: [] for kind in kinds}} for w in weights]

        def record():
            for values, variable in zip(found, variables):
                values["w"].append(variable.numpy())
                for kind in kinds:
                    values[kind].append(np.array(optimizer.get_slot(variable, kind)))

        record()
        for number, own in enumerate(gradients, 1):
            before = arrays(variables)
            step(*(tf.constant(g) for g in own))
            if number % every:
                assert same(arrays(variables), before), "no update yet"
            else:
                record()
        for values, steps in zip(found, composed(entry, names)):
            # Roundings of gradients before the step are roundings of what the slots see, and grow
            # where the maths loses digits.
            slots = 512 if entry.looseness else 64
            assert_equals(values, steps, weights=64, slots=slots, entry=entry)


@needs_library
class TestOnePass:
    def test_one_op(self):
        optimizer, variables = (
            tf_optim_ext.AdamW(0.1, use_ema=True, clipnorm=1.0),
            [tf.Variable([1.0])],
        )

        @tf.function
        def step(gradient):
            optimizer.apply_gradients([(gradient, variables[0])])

        graph = step.get_concrete_function(tf.constant([1.0])).graph
        ops = [op.type for op in graph.get_operations() if op.type.startswith("TfOptimExt")]
        assert sorted(ops) == ["TfOptimExtFusedStep", "TfOptimExtSquaredNorms"]

    def test_nothing_is_copied(self):
        optimizer = tf_optim_ext.AdamW(
            0.1, use_ema=True, global_clipnorm=1.0, gradient_accumulation_steps=2
        )
        variable = tf.Variable(tf.ones([100_000]))
        optimizer.build([variable])
        names = ("momentum", "velocity", "average", "gradient_accumulator")

        def addresses():
            slots = [optimizer.get_slot(variable, name) for name in names]
            return [
                np.asarray(v).__array_interface__["data"][0]
                for v in (variable.read_value(), *(tf.convert_to_tensor(s) for s in slots))
            ]

        before = addresses()
        for _ in range(4):
            optimizer.apply_gradients([(tf.fill([100_000], 0.5), variable)])
            assert addresses() == before
