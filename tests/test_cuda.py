"""Steps on GPUs, without one: their kernels run on the CPU, under a library in the driver's place.

It is the same text that is compiled for GPUs, and the same launcher and op. That they work on one,
`test_gpu.py` tests.
"""

import itertools
import shutil
import subprocess

import emulated
import numpy as np
import pytest
import tensorflow as tf
from common import arrays, assert_close, make_gradients, make_variables, same

import tf_optim_ext
from tf_optim_ext import catalogue
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import cuda, nvrtc, self_test
from tf_optim_ext.backends.scalars import Scalars
from tf_optim_ext.codegen import cuda as lowering
from tf_optim_ext.engine import clipping, targets

ROUTE = "native (cuda)"
# Odd sizes, none, one chunk of a kernel and a bit, and several.
SHAPES = ((), (1,), (7,), (3, 5), (0, 4), (8193,), (300, 113))
OUT_OF_MEMORY = 2
OPTIMIZERS = (
    tf_optim_ext.AdamW.program(amsgrad=False),
    tf_optim_ext.AdEMAMix.program(),
    tf_optim_ext.Lion.program(),
    tf_optim_ext.SGD.program(nesterov=True, has_momentum=True),
)
# Of a compiler of CUDA 13, which knows no older one than 75.
ARCHITECTURES = (75, 80, 90, 100, 120)


@pytest.fixture
def stub(monkeypatch, native_only):
    """Variables are on a GPU, so to speak; the library in the driver's place."""
    if emulated.stub() is None:
        pytest.skip("there is a CUDA driver")
    return emulated.emulate(monkeypatch)


def launches(stub):
    """Kernels and numbers of blocks since the latest call."""
    calls = stub.stub_calls().decode().splitlines()
    stub.stub_forget()
    return [call.split()[1:] for call in calls if call.startswith("cuLaunchKernel")]


def trained(make, shapes=SHAPES, steps=3, dtype="float32", of_gradients="float32", graph=True):
    rng = np.random.default_rng(5)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    variables = [tf.Variable(tf.cast(w, dtype)) for w in weights]
    optimizer = make()
    optimizer.build(variables)
    step = tf.function(optimizer.apply) if graph else optimizer.apply
    for i in range(steps):
        step([tf.cast(g, of_gradients) for g in make_gradients(i, shapes)], variables)
    return arrays([*variables, *optimizer.variables]), str(optimizer.route)


def both(make, monkeypatch, **kwargs):
    """What steps give on the CPU and, emulated, on a GPU."""
    expected, _ = trained(make, **kwargs)
    with monkeypatch.context() as patches:
        stub = emulated.emulate(patches)
        actual, route = trained(make, **kwargs)
        assert route == ROUTE
        assert stub.stub_depth() == 0
    return actual, expected


@pytest.mark.usefixtures("native_only")
class TestSteps:
    @pytest.fixture(autouse=True)
    def needs_no_driver(self):
        if emulated.stub() is None:
            pytest.skip("there is a CUDA driver")

    def test_every_optimizer(self, entry, monkeypatch):
        actual, expected = both(entry.make, monkeypatch)
        program = entry.make()._program()
        if program.passes == 1 and not program.state_scalars:
            assert same(actual, expected)
        else:  # sums are added in another order
            assert_close(actual, expected, rtol=2e-5, atol=2e-6)

    def test_eagerly(self, monkeypatch):
        actual, expected = both(tf_optim_ext.AdamW, monkeypatch, graph=False)
        assert same(actual, expected)

    @pytest.mark.parametrize("of_gradients", ["float32", "bfloat16", "float16", "float64"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_sixteen_bits(self, dtype, of_gradients, monkeypatch):
        kwargs = {"dtype": dtype, "of_gradients": of_gradients}
        actual, expected = both(tf_optim_ext.AdamW, monkeypatch, **kwargs)
        assert same(actual, expected)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_stochastic_rounding_takes_the_same_random_numbers(self, dtype, monkeypatch):
        def make():
            return tf_optim_ext.AdamW(1e-3, stochastic_rounding=True, seed=3)

        actual, expected = both(make, monkeypatch, dtype=dtype)
        assert same(actual, expected)

    @pytest.mark.parametrize(
        "options",
        [
            {"clipnorm": 0.5},
            {"global_clipnorm": 0.5},
            {"clipvalue": 0.5},
            {"use_ema": True, "ema_overwrite_frequency": 2},
            {"gradient_accumulation_steps": 2},
            {"loss_scale_factor": 4.0},
            {"cautious": True},
            {"cautious_weight_decay": True},
            {"learning_rate": tf.keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
        ],
        ids="-".join,
    )
    def test_options(self, options, monkeypatch):
        actual, expected = both(lambda: tf_optim_ext.AdamW(**options), monkeypatch, steps=4)
        assert_close(actual, expected, rtol=1e-5, atol=1e-6)

    def test_numbers_of_each_variable(self, monkeypatch):
        def make():
            optimizer = tf_optim_ext.AdamW(0.1, weight_decay=0.1)
            optimizer.exclude_from_weight_decay(var_names=["Variable"])
            return optimizer

        actual, expected = both(make, monkeypatch)
        assert same(actual, expected)

    def test_factor_below_the_numbers_of_float32(self, monkeypatch):
        def step():
            variable = tf.Variable(tf.fill([5], 1.0))
            optimizer = tf_optim_ext.SGD(1.0, global_clipnorm=1e-3)
            optimizer.build([variable])
            tf.function(optimizer.apply)([tf.fill([5], 3e38)], [variable])
            return arrays([variable])

        expected = step()
        assert not same(expected, [np.ones(5, np.float32)])
        emulated.emulate(monkeypatch)
        assert same(step(), expected)

    def test_sparse_gradients(self, monkeypatch):
        def step(sparse):
            table, optimizer = tf.Variable(tf.ones([5, 3])), tf_optim_ext.Adam(0.1, sparse=sparse)
            optimizer.build([table])
            rows = tf.IndexedSlices(tf.ones([3, 3]), tf.constant([4, 1, 4]))
            tf.function(lambda: optimizer.apply([rows], [table]))()
            return arrays([table, *optimizer.variables]), str(optimizer.route)

        expected, _ = step("exact")
        emulated.emulate(monkeypatch)
        actual, route = step("exact")
        assert route == ROUTE
        assert same(actual, expected)
        reasons = {"lazy": "only some rows are updated", "catch_up": "only some rows are updated"}
        for sparse, reason in reasons.items():
            _, route = step(sparse)
            assert route == f"tensorflow: weights on GPU:0 ({reason})"

    def test_a_rule_that_the_library_has_not(self, stub):
        class Halving(tf_optim_ext.Optimizer):
            @staticmethod
            def rule(w, g, s, h):
                return 0.5 * w - h.learning_rate * g

        variable, optimizer = tf.Variable([2.0, 4.0]), Halving(1.0)
        optimizer.apply([tf.constant([0.5, 0.25])], [variable])
        assert str(optimizer.route) == ROUTE
        np.testing.assert_array_equal(variable, [0.5, 1.75])


class TestLaunches:
    COUNT = 200
    SHAPES = tuple((i % 3 + 1,) for i in range(COUNT))

    def test_one_for_all_variables(self, stub):
        trained(tf_optim_ext.AdamW, steps=1)
        blocks = sum(-(-int(np.prod(shape)) // lowering.CHUNK) for shape in SHAPES)
        assert launches(stub) == [["scalars0", "1"], ["pass0", str(blocks)]]

    @pytest.mark.parametrize(
        "cls",
        [
            pytest.param(tf_optim_ext.AdamW, marks=pytest.mark.long),
            pytest.param(tf_optim_ext.LAMB, marks=pytest.mark.long),
            tf_optim_ext.Prodigy,
        ],
    )
    @pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.long)])
    def test_as_many_as_arguments_have_room_for(self, cls, large, monkeypatch, stub):
        monkeypatch.setattr(cuda, "_takes_large_tables", lambda: large)
        actual, _ = trained(cls, self.SHAPES)
        program = cls()._program()
        form = lowering.Form(False, lowering.LARGE_TABLES if large else lowering.SMALL_TABLES)
        names = [name for name, _ in launches(stub)]
        most = form.pass_variables(2 + len(program.slots))
        assert names.count("pass0") == 3 * -(-self.COUNT // most)
        assert (most < self.COUNT) == (not large)
        monkeypatch.undo()
        expected, _ = trained(cls, self.SHAPES)
        assert_close(actual, expected, rtol=2e-5, atol=2e-6)

    def test_more_variables_after_fewer(self, monkeypatch, stub):
        monkeypatch.setattr(cuda, "_takes_large_tables", lambda: True)
        for shapes in (SHAPES, self.SHAPES, SHAPES):
            actual, _ = trained(tf_optim_ext.SGD, shapes, steps=1)
            assert all(np.isfinite(a).all() for a in actual)

    def test_without_elements(self, stub):
        trained(tf_optim_ext.AdamW, [(0,), (0, 3)], steps=1)
        assert launches(stub) == [["scalars0", "1"]]


class TestNorms:
    @pytest.mark.parametrize("count", [1, 400])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_sums_of_squares(self, dtype, count, stub):
        rng = np.random.default_rng(0)
        values = [tf.cast(rng.normal(size=s), dtype) for s in (*SHAPES, *[(3,)] * count)]
        variables = [tf.Variable(v) for v in values]
        norms = clipping.squared_norms(values, variables)
        assert sorted({name for name, _ in launches(stub)} - {"scalars0"}) == ["pass0", "totals0"]
        expected = [np.sum(np.asarray(v, np.float64) ** 2) for v in values]
        np.testing.assert_allclose(norms, expected, rtol=1e-14)

    def test_do_not_overflow(self, stub):
        values = [tf.fill([3], 3e38), tf.constant([np.inf]), tf.constant([np.nan])]
        norms = clipping.squared_norms(values, [tf.Variable(v) for v in values])
        np.testing.assert_allclose(norms, [3 * float(np.float32(3e38)) ** 2, np.inf, np.nan])

    def test_of_doubles_are_tensorflows(self, stub):
        values = [tf.constant([3.0, 4.0], tf.float64)]
        norms = clipping.squared_norms(values, [tf.Variable(v) for v in values])
        assert not launches(stub)
        np.testing.assert_array_equal(norms, [25.0])


class TestSelfTest:
    DEVICE = "/job:localhost/replica:0/task:0/device:GPU:0"

    @pytest.fixture(autouse=True)
    def what_the_cpu_gives(self, monkeypatch, native_only):
        """Steps on the CPU are not emulated."""
        two_steps = self_test._two_steps
        usual = (tf.float32,) * len(self_test.WEIGHTS)
        cases = itertools.product(self_test.PROBES, (self_test.FORMATS, usual))
        known = {(p.fingerprint, f): two_steps(p, "CPU:0", f) for p, f in cases}

        def two_steps_on(program, device, formats):
            if device == "CPU:0":
                return known[program.fingerprint, formats]
            return two_steps(program, "CPU:0", formats)

        monkeypatch.setattr(self_test, "_two_steps", two_steps_on)

    def test_passes(self, stub):
        assert self_test.problem_on_gpu(self.DEVICE) is None
        assert launches(stub)

    def test_finds_what_is_wrong(self, monkeypatch, stub):
        def wrong(source, architecture, options):
            return emulated.compiled(source.replace("h[0] = ", "h[0] = 1.0 + "))

        monkeypatch.setattr(nvrtc, "compiled", wrong)
        assert "which should be" in self_test.problem_on_gpu(self.DEVICE)

    def test_finds_what_does_not_run(self, stub):
        stub.stub_fail(b"cuModuleLoadData", 0, OUT_OF_MEMORY)
        problem = self_test.problem_on_gpu(self.DEVICE)
        assert problem.startswith("the self-test failed: InternalError")
        assert "cuModuleLoadData failed: CUDA_ERROR_OUT_OF_MEMORY" in problem


class TestWhatIsReadElsewhere:
    def test_keeps_its_value(self, stub):
        variable, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
        optimizer.build([variable])

        @tf.function
        def step():
            before = variable.read_value()
            optimizer.apply([tf.ones(2)], [variable])
            return before

        np.testing.assert_array_equal(step(), [1.0, 2.0])
        np.testing.assert_array_equal(variable, [0.5, 1.5])


class TestErrors:
    """A failure of the driver is an error of TensorFlow, and nothing was changed."""

    @pytest.fixture
    def step(self, stub):
        variables, optimizer = make_variables("tf"), tf_optim_ext.LAMB(0.1)
        optimizer.build(variables)
        gradients = [tf.constant(g) for g in make_gradients(0)]
        function = tf.function(lambda: optimizer.apply(gradients, variables))
        function.get_concrete_function()

        def state():
            # Without the count of steps, which nothing orders after the update in a graph.
            return arrays([*variables, *optimizer.variables[1:]])

        def run():
            function()
            return state()

        run.state = state
        return run

    @pytest.mark.parametrize(
        ("call", "after", "text"),
        [
            ("cuStreamGetCtx", 0, "cuStreamGetCtx failed: CUDA_ERROR_OUT_OF_MEMORY"),
            ("cuModuleLoadData", 0, "cuModuleLoadData failed: CUDA_ERROR_OUT_OF_MEMORY"),
            ("cuModuleGetFunction", 2, "cuModuleGetFunction of .* failed"),
            ("cuLaunchKernel", 0, "cuLaunchKernel of scalars0 with 3 blocks failed"),
            ("cuLaunchKernel", 1, "cuLaunchKernel of pass0 with 3 blocks failed"),
            ("cuLaunchKernel", 4, r"pass1 .*CUDA_ERROR_OUT_OF_MEMORY \(out of memory\)"),
        ],
    )
    def test_changes_nothing(self, call, after, text, stub, step):
        before = step.state()
        stub.stub_fail(call.encode(), after, OUT_OF_MEMORY)
        with pytest.raises(tf.errors.InternalError, match=text):
            step()
        assert same(step.state(), before)
        assert stub.stub_depth() == 0
        assert not same(step(), before)

    def test_of_a_copy(self, stub):
        variable, optimizer = tf.Variable([1.0, 2.0]), tf_optim_ext.SGD(0.5)
        optimizer.build([variable])

        @tf.function
        def step():
            before = variable.read_value()
            optimizer.apply([tf.ones(2)], [variable])
            return before

        step.get_concrete_function()
        stub.stub_fail(b"cuMemcpyDtoDAsync", 0, OUT_OF_MEMORY)
        with pytest.raises(tf.errors.InternalError, match="cuMemcpyDtoDAsync failed"):
            step()
        np.testing.assert_array_equal(variable, [1.0, 2.0])

    def test_says_if_weights_were_changed(self, stub):
        variables = [tf.Variable([1.0]) for _ in range(TestLaunches.COUNT)]
        optimizer = tf_optim_ext.SGD(0.5)
        optimizer.build(variables)
        step = tf.function(lambda: optimizer.apply([tf.ones(1)] * len(variables), variables))
        step.get_concrete_function()
        stub.stub_fail(b"cuLaunchKernel", 2, OUT_OF_MEMORY)
        with pytest.raises(tf.errors.InternalError, match="some of the weights"):
            step()

    def test_of_a_rule_that_was_not_compiled(self, monkeypatch, stub):
        class Unknown(tf_optim_ext.Optimizer):
            @staticmethod
            def rule(w, g, s, h):
                return 0.25 * w - h.learning_rate * g

        monkeypatch.setattr(cuda, "prepare", lambda *args: None)
        variable, optimizer = tf.Variable([2.0, 4.0]), Unknown(1.0)
        with pytest.raises(tf.errors.FailedPreconditionError, match="not compiled for this GPU"):
            optimizer.apply([tf.constant([0.5, 0.25])], [variable])

    def test_of_the_compiler(self, monkeypatch, stub):
        def fail(source, architecture, options):
            raise nvrtc.CompileError("NVRTC_ERROR_COMPILATION for sm_90: line 1")

        monkeypatch.setattr(nvrtc, "compiled", fail)
        _, route = trained(tf_optim_ext.SGD, [(3,)])
        reason = "the rule does not compile: NVRTC_ERROR_COMPILATION for sm_90: line 1"
        assert route == f"tensorflow: weights on GPU:0 ({reason}), compiled by XLA"


class TestRoute:
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("off", "TF_OPTIM_EXT_CUDA=off"),
            ("maybe", "TF_OPTIM_EXT_CUDA=maybe is unknown; allowed are off, on"),
        ],
    )
    def test_can_be_turned_off(self, value, reason, monkeypatch, native_only):
        monkeypatch.setenv(cuda.VARIABLE, value)
        assert cuda._why_unavailable.__wrapped__() == reason

    def test_without_a_driver(self, monkeypatch, native_only):
        monkeypatch.setattr(cuda, "_driver_version", lambda: 0)
        assert cuda._why_unavailable.__wrapped__() == "no CUDA driver"

    def test_old_device(self, monkeypatch):
        monkeypatch.setattr(cuda, "_why_unavailable", lambda: None)
        monkeypatch.setattr(cuda, "_architecture", lambda device: (61, None))
        assert native.why_not_on_gpu.__wrapped__("GPU:0") == "a GPU of compute capability 6.1"

    @pytest.mark.parametrize(
        ("option", "reason"),
        [({"row_wise": True}, "the rule runs by row")],
    )
    def test_what_kernels_cannot_do(self, option, reason, stub):
        _, route = trained(lambda: tf_optim_ext.Adam(**option), [(3, 2)])
        assert route == f"tensorflow: weights on GPU:0 ({reason}), compiled by XLA"

    def test_float64(self, stub):
        _, route = trained(tf_optim_ext.SGD, [(3, 2)], dtype="float64")
        assert "weights of dtype float64" in route


def numbers_of(program, rng):
    return {name: float(rng.uniform(0.1, 0.9)) for name in program.hyperparameters}


class _State:
    """Variables for any program, with values that are as good as any."""

    def __init__(self, program, shapes):
        rng = np.random.default_rng(3)

        def variable(shape, dtype=np.float32):
            return tf.Variable(rng.uniform(0.1, 1.0, size=shape).astype(dtype))

        self.weights = [variable(shape) for shape in shapes]
        self.slots = [variable(shape) for _ in program.slots for shape in shapes]
        own = len(program.variable_scalars) * len(shapes)
        count = own + len(program.optimizer_scalars)
        self.scalars = [variable((), np.float64) for _ in range(count)]
        self._hyperparameters = numbers_of(program, rng)
        self._gradients = [tf.constant(rng.normal(size=s).astype(np.float32)) for s in shapes]
        self._program = program

    def step(self):
        handles = ([v.handle for v in vs] for vs in (self.weights, self.slots, self.scalars))
        group = targets.Group("CPU:0", list(range(len(self.weights))), *handles)
        numbers = Scalars(4, 0.01, 1.0, self._hyperparameters)
        native.step(self._program, group, self._gradients, numbers)
        return arrays([*self.weights, *self.slots, *self.scalars])


@pytest.mark.long
class TestCatalogue:
    """Every program that the library has, but those by row."""

    SHAPES = ((), (5,), (8193,), (3, 1000))

    def test_equals_the_native_one(self, monkeypatch, native_only):
        if emulated.stub() is None:
            pytest.skip("there is a CUDA driver")
        seen = set()
        for title, program in catalogue.all_programs():
            if lowering.why_not(program) or program.fingerprint in seen:
                continue
            seen.add(program.fingerprint)
            expected = _State(program, self.SHAPES).step()
            with monkeypatch.context() as patches:
                emulated.emulate(patches)
                assert cuda.prepare(program, "GPU:0", False, len(self.SHAPES)) is None
                actual = _State(program, self.SHAPES).step()
            exact = program.passes == 1 and not program.state_scalars
            for a, b in zip(actual, expected):
                scale = np.max(np.abs(b), initial=1e-30)
                close = np.allclose(a, b, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
                assert same([a], [b]) if exact else close, title

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_compiles(self, architecture, tmp_path):
        unique = {program.fingerprint: program for _, program in catalogue.all_programs()}
        for program in unique.values():
            if not lowering.why_not(program):
                found = nvcc(lowering.emit(program), architecture, tmp_path)
                assert found.returncode == 0, f"{program}: {found.stderr}"


def nvcc(source, architecture, folder):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    path = folder / "step.cu"
    path.write_text(source)
    flags = [f"-arch=sm_{architecture}", "-std=c++17", "--fmad=false", "--ftz=true", "-w"]
    command = ["nvcc", "-cubin", *flags, "-Xptxas", "-v", str(path), "-o", str(folder / "cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.once
class TestCompilers:
    @pytest.mark.parametrize(
        ("converts", "table_bytes"),
        [
            # With conversions, it takes more of them.
            (True, lowering.LARGE_TABLES),
            pytest.param(True, lowering.SMALL_TABLES, marks=pytest.mark.long),
            pytest.param(False, lowering.LARGE_TABLES, marks=pytest.mark.long),
            pytest.param(False, lowering.SMALL_TABLES, marks=pytest.mark.long),
        ],
    )
    def test_no_registers_are_spilled(self, converts, table_bytes, tmp_path):
        for program in OPTIMIZERS:
            source = lowering.emit(program, lowering.Form(converts, table_bytes))
            found = nvcc(source, 90, tmp_path)
            assert found.returncode == 0, found.stderr
            assert found.stderr.count("0 bytes spill stores, 0 bytes spill loads") >= 2
            assert found.stderr.count("spill stores") == found.stderr.count(" 0 bytes spill stores")

    @pytest.mark.parametrize("architecture", [70, *ARCHITECTURES])
    def test_nvrtc(self, architecture):
        compiler, reason = nvrtc.find()
        if compiler is None:
            pytest.skip(reason)
        if architecture == 70 and compiler.version >= (13, 0):
            pytest.skip("this version knows it no longer")
        source = lowering.emit(OPTIMIZERS[0])
        assert compiler.compile(source, architecture, lowering.OPTIONS)[:4] == b"\x7fELF"
        with pytest.raises(nvrtc.CompileError, match="nonsense"):
            compiler.compile("nonsense", architecture, lowering.OPTIONS)


class _Compiler:
    version = (12, 0)

    def __init__(self):
        self.compiled = []

    def compile(self, source, architecture, options):
        self.compiled.append((source, architecture))
        return f"code of {source} for {architecture}".encode()


@pytest.mark.once
class TestCache:
    @pytest.fixture
    def compiler(self, monkeypatch, tmp_path):
        compiler = _Compiler()
        monkeypatch.setattr(nvrtc, "find", lambda: (compiler, None))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return compiler

    def test_compiles_once(self, compiler):
        for _ in range(2):
            for architecture in (80, 90):
                image = nvrtc.compiled("a", architecture, ())
                assert image == f"code of a for {architecture}".encode()
        assert compiler.compiled == [("a", 80), ("a", 90)]

    def test_damaged_file(self, compiler, tmp_path):
        image = nvrtc.compiled("a", 80, ())
        (path,) = (tmp_path / "cache").rglob("*.cubin")
        for damaged in (b"", path.read_bytes()[:-1]):
            path.write_bytes(damaged)
            assert nvrtc.compiled("a", 80, ()) == image
        assert len(compiler.compiled) == 3
        assert [p.name for p in path.parent.iterdir()] == [path.name]

    def test_where_nothing_can_be_written(self, compiler, monkeypatch, tmp_path):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        for _ in range(2):
            assert nvrtc.compiled("a", 80, ()) == b"code of a for 80"

    def test_without_a_compiler(self, monkeypatch):
        monkeypatch.setattr(nvrtc, "find", lambda: (None, "no NVRTC: not found"))
        with pytest.raises(nvrtc.CompileError, match="no NVRTC: not found"):
            nvrtc.compiled("a", 80, ())
