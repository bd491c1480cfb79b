"""The native library: bits, threads, formats, and how it is found."""

import concurrent.futures
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import conftest
import native_probe
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_steps import (
    ALL,
    FORMATS,
    PROGRAMS,
    SGD,
    assert_same_bits,
    random_arrays,
    run,
)
from tensorflow.python.framework import op_callbacks

import tf_optim_ext
from tf_optim_ext import catalogue
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import loader
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.rule import auxiliary

_SOME = (
    "average",
    "accumulate",
    "SGD(nesterov=True, has_momentum=True, cautious=False, cautious_weight_decay=True",
    "Adam(amsgrad=True, cautious=True, cautious_weight_decay=True",
    "Adam(amsgrad=True, cautious=False, cautious_weight_decay=False, row_wise=True",
    "Adagrad(row_wise=False, catch_up=True",
    "Lamb(cautious=False",
    "NovoGrad(grad_averaging=True, amsgrad=True",
    "Adan(cautious=True",
    "COCOB(",
    "Prodigy(cautious=True",
)


def by_title(titles):
    """Parametrises by titles; most are among the long tests."""
    some = [next((t for t in titles if t.startswith(s)), None) for s in _SOME]
    return pytest.mark.parametrize(
        "title", [t if t in some else pytest.param(t, marks=pytest.mark.long) for t in titles]
    )


# They act on each element alone, or on each row: a flat array consists of rows of one element.
ELEMENTWISE = [title for title, program in PROGRAMS.items() if program.treats_rows_alone]

properties = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(params=conftest.INSTRUCTION_SETS)
def instruction_set(request, native_only):
    """Each instruction set that this processor has."""
    if request.param not in conftest.POSSIBLE:
        pytest.skip(f"this processor has no {request.param}")
    initial = native.instruction_set()
    native.use(request.param)
    yield request.param
    native.use(initial)


# ------------------------------------------------------------------------- one result, bit by bit

sizes = st.lists(
    st.one_of(
        st.integers(0, 40),
        st.sampled_from([63, 64, 65, 255, 256, 257, 319, 320, 321, 1023, 1024, 1025]),
        st.sampled_from([16_383, 16_384, 16_385, 40_000]),
    ),
    min_size=1,
    max_size=6,
)


class TestGrouping:
    """A variable's result depends on nothing but the variable."""

    @by_title(PROGRAMS)
    def test_order_and_company(self, instruction_set, title):
        program = PROGRAMS[title]

        @properties
        @given(sizes, st.randoms(use_true_random=False), st.integers(0, 2**32))
        def check(sizes, random, seed):
            shapes = [(n // 3, 3) if program.by_row else n for n in sizes]
            arrays = [random_arrays(program, s, [seed, i], FORMATS) for i, s in enumerate(shapes)]
            together = run(program, arrays)
            order = list(range(len(arrays)))
            random.shuffle(order)
            cut = random.randint(0, len(order))
            for part in (order[:cut], order[cut:]):
                if part:
                    for i, result in zip(part, run(program, [arrays[i] for i in part])):
                        assert_same_bits(result, together[i])

        check()

    @by_title(ELEMENTWISE)
    def test_a_variable_in_two_parts(self, instruction_set, title):
        program = PROGRAMS[title]

        @properties
        @given(st.integers(0, 35_000), st.floats(0, 1), st.integers(0, 2**32))
        def check(size, where, seed):
            arrays = random_arrays(program, size, seed, FORMATS)
            cut = int(where * size)
            parts = [
                {name: a[:cut] for name, a in arrays.items()},
                {name: a[cut:] for name, a in arrays.items()},
            ]
            (whole,) = run(program, [arrays])
            first, second = run(program, parts)
            joined = {name: np.concatenate([first[name], second[name]]) for name in whole}
            assert_same_bits(joined, whole)

        check()

    @by_title(ELEMENTWISE)
    def test_rank_does_not_matter(self, instruction_set, title):
        program = PROGRAMS[title]
        arrays = random_arrays(program, (2, 12), 0, FORMATS)
        (matrix,) = run(program, [arrays])
        for shape in ((2, 3, 4), (2, 12, 1), (24,)):
            if shape == (24,) and program.by_row:
                continue  # these are other rows
            (other,) = run(program, [{name: a.reshape(shape) for name, a in arrays.items()}])
            assert other["w"].shape == shape
            assert_same_bits({k: np.reshape(a, matrix[k].shape) for k, a in other.items()}, matrix)

    @by_title(ALL)
    def test_every_instruction_set(self, native_only, title):
        if len(conftest.POSSIBLE) < 2:
            pytest.skip("this processor has one instruction set only")
        program = ALL[title]
        shapes = [(257,), (129, 130), (40_000,), (3, 5, 7), (1,), (0, 3)]
        # All float32, and all formats.
        arrays = [
            random_arrays(program, shape, [i, len(formats)], formats)
            for formats in (FORMATS[:1], FORMATS)
            for i, shape in enumerate(shapes)
        ]
        results = {}
        initial = native.instruction_set()
        try:
            for name in conftest.POSSIBLE:
                native.use(name)
                results[name] = run(program, arrays)
        finally:
            native.use(initial)
        for name in conftest.POSSIBLE[1:]:
            for actual, expected in zip(results[name], results["baseline"], strict=True):
                assert_same_bits(actual, expected)

    def test_squared_norms(self, instruction_set):
        rng = np.random.default_rng(2)
        lengths = [0, 1, 7, 256, 1025, 16_384, 16_385, 100_000]
        arrays = [rng.normal(size=n).astype(FORMATS[i % 3]) for i, n in enumerate(lengths)]
        norms = native.squared_norms([tf.constant(a) for a in arrays]).numpy()
        assert norms.dtype == np.float64
        for array, norm in zip(arrays, norms, strict=True):
            exact = np.sum(np.square(array.astype(np.float64)))
            # A sum of exact squares in float64.
            np.testing.assert_allclose(norm, exact, rtol=1e-13)
            assert native.squared_norms([tf.constant(array)]).numpy()[0] == norm
        reversed_norms = native.squared_norms([tf.constant(a) for a in arrays[::-1]]).numpy()
        np.testing.assert_array_equal(reversed_norms[::-1], norms)

    def test_squared_norms_do_not_depend_on_the_instruction_set(self, native_only):
        rng = np.random.default_rng(3)
        dtypes, found = [*FORMATS, np.float64], {}
        values = [tf.constant(rng.normal(size=50_001).astype(dtype)) for dtype in dtypes]
        initial = native.instruction_set()
        try:
            for name in conftest.POSSIBLE:
                native.use(name)
                found[name] = native.squared_norms(values).numpy().tobytes()
        finally:
            native.use(initial)
        assert len(set(found.values())) == 1, found

    def test_squared_norms_of_special_values(self, instruction_set):
        rows = [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, np.inf], [1e30, 0.0], [-0.0, 0.0]]
        norms = native.squared_norms([tf.constant(row) for row in rows])
        square = np.float64(np.float32(1e30)) ** 2
        np.testing.assert_array_equal(norms, [np.nan, np.inf, np.inf, square, 0.0])

    @pytest.mark.parametrize("size", [0, 1, 5, 17, 1025, 100_003])
    def test_squared_norms_of_float64(self, instruction_set, size):
        array = np.random.default_rng(size).normal(size=size) * 1e100
        (norm,) = native.squared_norms([tf.constant(array)]).numpy()
        np.testing.assert_allclose(norm, np.sum(np.square(array)), rtol=1e-13)


# ------------------------------------------------------------------------------- other processes


def _start(tasks, cwd, **environment):
    # Not from here: the package may be installed, or a copy.
    root = pathlib.Path(tf_optim_ext.__file__).parents[1]
    environment = {"PYTHONPATH": str(root), **environment}
    return subprocess.Popen(
        [sys.executable, native_probe.__file__, *tasks],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k != loader.VARIABLE}, **environment},
    )


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """Results of `native_probe` in processes that start differently, as they are asked for."""
    copy = tmp_path_factory.mktemp("copy")
    environments = {
        "baseline": (["start"], {"TF_OPTIM_EXT_NATIVE": "baseline"}),
        "one thread": (["threads=1", "digests"], {"TF_OPTIM_EXT_NATIVE": "baseline"}),
        "five threads": (
            ["threads=5", "start", "digests"],
            {"TF_OPTIM_EXT_NATIVE": f" {conftest.BEST.upper()} "},
        ),
        "nonsense": (
            ["start", "broken"],
            {"TF_OPTIM_EXT_NATIVE": "nonsense", "PYTHONPATH": str(copy)},
        ),
    }

    @functools.cache
    def probe(name):
        tasks, environment = environments[name]
        if "broken" in tasks:
            package = pathlib.Path(tf_optim_ext.__file__).parent
            shutil.copytree(package, copy / "tf_optim_ext")
        with _start(tasks, copy, **environment) as process:
            output, error = process.communicate(timeout=300)
        return json.loads(output) if process.returncode == 0 else {"failed": error}

    return probe


@pytest.mark.usefixtures("native_only")
class TestEagerSteps:
    """Each op and each input takes time that small models do not have."""

    def ops_of(self, step):
        """Names of the ops that a function runs, and how many inputs they have."""
        found = []

        def note(op_type, inputs, *_, **__):
            found.append((op_type, len(inputs)))

        op_callbacks.add_op_callback(note)
        try:
            step()
        finally:
            op_callbacks.remove_op_callback(note)
        return found

    @pytest.mark.parametrize("cls", [tf_optim_ext.AdamW, tf_optim_ext.Prodigy])
    def test_two_ops(self, cls):
        variables = [tf.Variable(tf.ones(n)) for n in range(1, 6)]
        gradients = [tf.ones(n) for n in range(1, 6)]
        optimizer = cls()
        for _ in range(2):
            optimizer.apply(gradients, variables)
        # Weights, slots, numbers of the step; and of the state, which AdamW does not have.
        state = 3 if optimizer._program().state_scalars else 2
        assert self.ops_of(lambda: optimizer.apply(gradients, variables)) == [
            ("TfOptimExtStep", len(gradients) + state + 4),
            ("AssignAddVariableOp", 2),
        ]

    @pytest.mark.parametrize("wrap", [lambda step: step, tf.function], ids=["eager", "function"])
    def test_what_is_assigned_between_steps_counts(self, wrap):
        variable = tf.Variable([1.0, -2.0])
        optimizer = tf_optim_ext.SGD(0.125)
        step = wrap(lambda: optimizer.apply([tf.constant([0.5, 1.0])], [variable]))
        step()
        np.testing.assert_array_equal(variable, [1.0 - 0.0625, -2.125])
        optimizer.learning_rate = 0.5
        step()
        np.testing.assert_array_equal(variable, [1.0 - 0.3125, -2.625])

    @pytest.mark.parametrize("wrap", [lambda step: step, tf.function], ids=["eager", "function"])
    def test_the_number_of_steps_may_be_assigned(self, wrap):
        # With its bias correction, Adam's first step goes as far as the learning rate.
        variable = tf.Variable([1.0, -2.0])
        optimizer = tf_optim_ext.Adam(0.125, epsilon=0.0)
        step = wrap(lambda: optimizer.apply([tf.constant([0.5, 1.0])], [variable]))
        step()
        np.testing.assert_allclose(variable, [0.875, -2.125], rtol=1e-6)
        optimizer.iterations.assign(10_000_000)
        for slot in ("momentum", "velocity"):
            optimizer.get_slot(variable, slot).assign([0.0, 0.0])
        step()  # no correction: 0.1 / sqrt(0.001) learning rates
        far = 0.125 * 0.1 / 0.001**0.5
        np.testing.assert_allclose(variable, [0.875 - far, -2.125 - far], rtol=1e-5)


class TestOtherProcesses:
    @pytest.mark.long
    def test_threads_do_not_change_a_bit(self, probes, native_only):
        one, five = probes("one thread")["digests"], probes("five threads")["digests"]
        assert set(one) == set(conftest.POSSIBLE)
        initial = native.instruction_set()
        here = native_probe.digests()
        native.use(initial)
        assert one == five == here
        assert len(set(here.values())) == 1, "instruction sets differ"

    @pytest.mark.parametrize(
        ("process", "name"),
        [
            ("baseline", "baseline"),
            pytest.param("five threads", conftest.BEST, marks=pytest.mark.long),
        ],
    )
    def test_instruction_set_of_the_environment(self, process, name, probes, native_only):
        found = probes(process)["start"]
        assert found["why_not"] is None
        assert found["instruction_set"] == name
        assert found["route"] == f"native ({name})"
        assert found["has"] is True
        assert found["result"] == [0.5, 1.5]

    def test_unknown_instruction_set(self, probes):
        found = probes("nonsense")["start"]
        reason = "TF_OPTIM_EXT_NATIVE=nonsense is unknown; allowed are off, avx512, avx2, baseline"
        assert found["why_not"] == reason
        assert found["instruction_set"] is None
        assert found["has"] is False
        assert found["route"] == f"tensorflow: {reason}"
        assert found["result"] == [0.5, 1.5]

    def test_a_library_that_does_not_fit_is_not_used(self, probes, native_only):
        found = probes("nonsense")["broken"]
        version = tf.__version__
        assert found.pop("good") is None
        assert found.pop("another patch") is None
        for name in ("no library", "zeros for a library"):
            assert found.pop(name).startswith("library does not load: ")
        for name in ("library cut off", "text for a library", "folder for a library"):
            assert found.pop(name) == "libtf_optim_ext.so is damaged; reinstall tf_optim_ext"
        damaged = "build.json is damaged; reinstall tf_optim_ext"
        assert found == {
            "no report": "library not built: run `python -m tf_optim_ext.build`",
            "another version": f"library built for TensorFlow 2.99.0, this is {version}; reinstall "
            "tf_optim_ext (pip install --force-reinstall --no-deps --no-cache-dir)",
            "failed": "library not built: no C++ compiler: c++ not found",
            **dict.fromkeys(["cut off", "empty", "no dictionary", "another dictionary"], damaged),
        }


class TestLoader:
    @pytest.mark.parametrize("value", ["off", "OFF", "0", "none", " off "])
    def test_off(self, monkeypatch, value):
        monkeypatch.setenv(loader.VARIABLE, value)
        library, reason = loader._load()
        assert library is None
        assert reason == f"TF_OPTIM_EXT_NATIVE={value}"

    def test_an_instruction_set_that_the_processor_lacks(self, monkeypatch, native_only):
        monkeypatch.setenv(loader.VARIABLE, "avx2")
        monkeypatch.setattr(loader._Library, "use", lambda *_: False)
        reason = "TF_OPTIM_EXT_NATIVE=avx2: this processor lacks it or it was not built"
        assert loader._load() == (None, reason)

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setattr(loader, "_loaded", lambda: (None, "a reason"))
        assert native.why_not() == "a reason"
        assert native.instruction_set() is None
        assert not native.has(auxiliary.average())
        calls = [
            lambda: native.use("baseline"),
            lambda: native.squared_norms([tf.ones(2)]),
            lambda: native.stream([np.ones(2, np.float32)], [np.ones(2, np.float32)]),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="native library is not in use: a reason"):
                call()
        variable = tf.Variable([1.0, 2.0])
        optimizer = tf_optim_ext.SGD(0.5, global_clipnorm=10.0, use_ema=True)
        optimizer.apply([tf.ones(2)], [variable])
        assert str(optimizer.route) == "tensorflow: a reason"
        np.testing.assert_array_equal(variable, [0.5, 1.5])

    @pytest.mark.parametrize("name", ["nonsense", "", "AVX2", "off", "avx2\0"])
    def test_use_of_what_there_is_not(self, native_only, name):
        initial = native.instruction_set()
        with pytest.raises(ValueError, match=r"lacks .*In use: "):
            native.use(name if "\0" not in name else "sse9")
        assert native.instruction_set() == initial

    def test_has_every_program_of_the_package(self, native_only):
        for title, program in catalogue.all_programs():
            assert native.has(program), title
        unique = {program.fingerprint for _, program in catalogue.all_programs()}
        assert len(native.library().kernels) == len(unique)

    def test_importing_flushes_no_denormals(self, native_only):
        # A library linked with -ffast-math would.
        tiny = np.full(100, 1e-40, np.float32)
        assert np.all(tiny * np.float32(0.5) > 0)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: np.all(tiny * np.float32(0.5) > 0)).result()


class TestStream:
    def array(self, n=1000, dtype=np.float32):
        return np.ones(n, dtype)

    @pytest.mark.parametrize("threads", [1, 2, 7])
    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    @pytest.mark.parametrize("size", [0, 1, 5, 10_007])
    def test_adds(self, instruction_set, count, threads, size):
        arrays = [np.full(size, float(i), np.float32) for i in range(count)]
        seconds = native.stream(arrays, [np.full(size, 0.5, np.float32)], threads)
        assert seconds >= 0
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(array, np.full(size, i + 0.5))

    def test_bad_arguments(self, native_only):
        good, read_only = self.array(), self.array()
        read_only.flags.writeable = False
        bad = {
            "no array": ([], [good], 1),
            "five arrays": ([self.array() for _ in range(5)], [good], 1),
            "nothing to read": ([good], [], 1),
            "two to read": ([good], [self.array(), self.array()], 1),
            "float64": ([self.array(dtype=np.float64)], [good], 1),
            "float64 to read": ([good], [self.array(dtype=np.float64)], 1),
            "other size": ([good], [self.array(999)], 1),
            "strided": ([self.array(2000)[::2]], [good], 1),
            "transposed": ([np.ones((10, 100), np.float32).T], [good], 1),
            "read-only": ([read_only], [good], 1),
            "list": ([[1.0] * 1000], [good], 1),
            "tensor": ([tf.ones(1000)], [good], 1),
            "no threads": ([self.array()], [good], 0),
            "negative threads": ([self.array()], [good], -1),
        }
        for name, arguments in bad.items():
            with pytest.raises(ValueError, match="needs 1 to 4 writable float32 arrays"):
                native.stream(*arguments)
            assert np.all(good == 1), name
        native.stream([good], [read_only])
        assert np.all(good == 2)


# ---------------------------------------------------------------------------------- 16-bit formats

ALL_BITS = np.arange(2**16, dtype=np.uint16)


def plain(learning_rate):
    """The numbers of a step of SGD that does nothing else."""
    h = {"clipvalue": np.inf, "weight_decay": 0.0, "fully_decoupled_weight_decay": 0.0}
    h = {name: h[name] for name in SGD.hyperparameters}
    return Scalars(0, learning_rate, 1.0, h)


def flushed(x):
    """What is below the smallest normal float32 becomes zero."""
    return np.where(np.abs(x) < 2.0**-126, np.copysign(np.float32(0), x), x)


class TestSixteenBits:
    @pytest.mark.parametrize("dtype", FORMATS[1:])
    def test_every_pattern_is_loaded_exactly(self, instruction_set, dtype):
        patterns = ALL_BITS.view(dtype)
        arrays = {"w": np.zeros(2**16, np.float32), "g": patterns}
        (result,) = run(auxiliary.accumulate(), [arrays], Scalars(0, 0.0, 1.0, {}))
        np.testing.assert_array_equal(result["w"], flushed(patterns.astype(np.float32)))

    @pytest.mark.parametrize("dtype", FORMATS[1:])
    def test_every_pattern_survives_a_step_of_length_0(self, instruction_set, dtype):
        patterns = ALL_BITS.view(dtype)
        arrays = {"w": patterns, "g": np.zeros(2**16, np.float32)}
        (result,) = run(SGD, [arrays], plain(0.0))
        with np.errstate(invalid="ignore"):
            expected = flushed(patterns.astype(np.float32)).astype(dtype)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(result["w"]), nan)
        # Zeros with their signs, too.
        bits = result["w"].view(np.uint16)[~nan]
        np.testing.assert_array_equal(bits, expected.view(np.uint16)[~nan])

    @pytest.mark.parametrize("dtype", FORMATS[1:])
    def test_stores_round_to_nearest_even(self, instruction_set, dtype):
        # Between any two neighbours, the middle (which both formats have in float32) and what
        # float32 has on either side of it.
        finite = np.sort(ALL_BITS.view(dtype).astype(np.float32))
        finite = finite[np.isfinite(finite)]
        middle = (finite[:-1] / 2 + finite[1:] / 2).astype(np.float32)
        largest = finite[-1].astype(np.float64)
        step = largest - finite[-2].astype(np.float64)
        ends = [largest + step / 2, largest + step, 3.4e38, np.inf]
        with np.errstate(over="ignore"):
            ends = np.array([*ends, *np.negative(ends)]).astype(np.float32)
            values = np.concatenate([middle, ends])
            nearby = [np.nextafter(values, np.float32(end)) for end in (np.inf, -np.inf)]
            values = np.concatenate([values, *nearby])
            expected = flushed(values).astype(dtype)
        arrays = {"w": np.zeros(values.shape, dtype), "g": -values}
        (result,) = run(SGD, [arrays], plain(1.0))
        np.testing.assert_array_equal(result["w"].astype(np.float32), expected.astype(np.float32))

    @pytest.mark.parametrize("dtype", FORMATS[1:])
    def test_every_nan_of_float32_stays_one(self, instruction_set, dtype):
        rng = np.random.default_rng(1)
        payloads = np.concatenate([[1, 0x3FFFFF, 0x400000, 0x7FFFFF], rng.integers(1, 2**23, 500)])
        bits = np.concatenate([payloads | 0x7F800000, payloads | 0xFF800000]).astype(np.uint32)
        arrays = {"w": np.zeros(bits.shape, dtype), "g": bits.view(np.float32)}
        (result,) = run(SGD, [arrays], plain(1.0))
        assert np.all(np.isnan(result["w"].astype(np.float32)))


class TestDenormals:
    """Flushed to zero, by every thread, and for the time of the step only."""

    TINY = np.array([1e-40, -1e-40, 1e-45, -1.17e-38, 1.17e-38], np.float32)

    @pytest.mark.parametrize("size", [5, 1_000_000])
    def test_read(self, instruction_set, size):
        tiny = np.resize(self.TINY, size)
        zero = np.zeros(size, np.float32)
        results = run(SGD, [{"w": tiny, "g": zero}, {"w": zero, "g": tiny}], plain(0.5))
        for result in results:
            np.testing.assert_array_equal(result["w"], zero)

    @pytest.mark.parametrize("size", [5, 1_000_000])
    def test_made(self, instruction_set, size):
        g = np.full(size, 2.0**-126, np.float32)
        h = plain(0.5)
        (result,) = run(SGD, [{"w": np.zeros(size, np.float32), "g": g}], h)
        np.testing.assert_array_equal(result["w"], np.zeros(size))
        # What is just not one stays.
        (result,) = run(SGD, [{"w": np.zeros(size, np.float32), "g": 2 * g}], h)
        np.testing.assert_array_equal(result["w"], -g)

    @by_title(PROGRAMS)
    def test_no_slot_keeps_one(self, instruction_set, title):
        program = PROGRAMS[title]
        arrays = {name: np.resize(self.TINY, 1000) for name in ("w", "g", *program.slots)}
        arrays.update({name: np.abs(a) for name, a in arrays.items() if name not in ("w", "g")})
        (result,) = run(program, [arrays])
        for name in program.outputs:
            value = result[name]
            if np.array_equal(value, arrays[name]):
                continue  # kept as it was by a selection
            assert not np.any((value != 0) & (np.abs(value) < 2.0**-126))

    def test_the_calling_thread_has_them_again_afterwards(self, instruction_set):
        run(SGD, [{"w": self.TINY, "g": self.TINY}])
        with pytest.raises(tf.errors.InvalidArgumentError):
            run(SGD, [{"w": self.TINY, "g": self.TINY[:2]}])
        native.squared_norms([tf.constant(self.TINY)])
        assert np.all(self.TINY * np.float32(2) != 0)
