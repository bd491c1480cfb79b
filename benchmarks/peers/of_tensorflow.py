"""This package, Keras, tf_keras, TensorFlow's ops: `-m benchmarks.peers.of_tensorflow ours`."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

# TensorFlow reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import arguments, timing
from benchmarks.peers import server

Json = dict[str, Any]


class TensorFlowStep:
    """A step of an optimizer, traced `traces` times if its mode is a function."""

    def __init__(
        self,
        optimizer: Any,
        name: str,
        weights: Callable[[], list[np.ndarray]],
        apply: Callable[[], None],
        mode: str,
        traces: int,
    ) -> None:
        self.optimizer, self.optimizer_name, self.weights = optimizer, name, weights
        self.traces: list[Json] = []
        self.step = apply
        if mode != "eager":
            for _ in range(traces):
                self.step = tf.function(apply, jit_compile=True if mode == "xla" else None)
                self.traces.append(timing.trace(self.step))

    @property
    def route(self) -> str:
        return getattr(self.optimizer, "route", "")

    def finish(self) -> object:
        return self.optimizer.iterations.numpy()

    def state_bytes(self) -> int:
        found = self.optimizer.variables
        variables = found() if callable(found) else found
        return sum(
            int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size
            for v in variables
            if v is not self.optimizer.iterations
        )


class Library:
    """Weights and gradients on one device, shared by all steps; slots are each one's."""

    def start(self, threads: int, device: str) -> Json:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel("ERROR")
        self.threads = threads
        self.device = "/CPU:0"
        if device == "gpu":
            if not tf.config.list_physical_devices("GPU"):
                raise server.Missing("TensorFlow sees no GPU")
            self.device = "/GPU:0"
        return {"versions": {"tensorflow": tf.__version__, "keras": keras.__version__}}

    def case(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        with tf.device(self.device):
            self.variables = [keras.Variable(w, dtype="float32") for w in weights]
            self.gradients = [tf.constant(g) for g in gradients]

    def forget(self) -> None:
        self.variables, self.gradients = [], []

    def weights(self) -> list[np.ndarray]:
        return [np.array(v.numpy()) for v in self.variables]

    def keras_3(self, optimizer: Any, name: str, mode: str, traces: int) -> TensorFlowStep:
        optimizer.build(self.variables)

        def apply() -> None:
            optimizer.apply(self.gradients, self.variables)

        return self._step(optimizer, name, apply, mode, traces)

    def keras_2(self, optimizer: Any, name: str, mode: str, traces: int) -> TensorFlowStep:
        pairs = list(zip(self.gradients, [v.value for v in self.variables], strict=True))

        def apply() -> None:
            optimizer.apply_gradients(pairs)

        return self._step(optimizer, name, apply, mode, traces)

    def _step(
        self, optimizer: Any, name: str, apply: Callable[[], None], mode: str, traces: int
    ) -> TensorFlowStep:
        with tf.device(self.device):
            return TensorFlowStep(optimizer, name, self.weights, apply, mode, traces)


class Ours(Library):
    """This package, and the limit of the memory."""

    def start(self, threads: int, device: str) -> Json:
        import tf_optim_ext

        started = super().start(threads, device)
        started["versions"]["tf_optim_ext"] = tf_optim_ext.__version__
        started["native"] = tf_optim_ext.native.instruction_set()
        started["why_not_native"] = tf_optim_ext.native.why_not()
        started["why_not_inside_xla"] = tf_optim_ext.native.why_not_inside_xla()
        return started

    def make(self, mode: str, optimizer: str, traces: int) -> Any:
        import tf_optim_ext

        if mode.startswith("limit"):
            return self._limit(int(mode.removeprefix("limit")))
        made = self._optimizer(optimizer)
        if mode != "portable":
            return self.keras_3(made, optimizer, mode, traces)
        with tf_optim_ext.portable():
            return self.keras_3(made, optimizer, "function", traces)

    def program(self, optimizer: str) -> Json:
        """What a step reads and writes of each weight, in bytes, and how many slots there are."""
        from benchmarks import moved_bytes

        program = self._optimizer(optimizer)._program()
        return {"slots": len(program.slots), "bytes_per_weight": moved_bytes.per_weight(program)}

    def _optimizer(self, name: str) -> Any:
        import tf_optim_ext

        cls = getattr(tf_optim_ext, arguments.class_of(name), None)
        if cls is None:
            raise server.Missing(f"tf_optim_ext has no {name}")
        return cls(**arguments.of(name))

    def _limit(self, written: int) -> Any:
        weights = sum(int(np.prod(v.shape)) for v in self.variables)
        if self.device != "/CPU:0":
            return GpuStream(weights, written, self.device)
        return CpuStream(weights, written, self.threads)


class Stream:
    """A plain loop that reads one array and reads and writes others: the limit of the memory."""

    optimizer_name = ""
    traces: tuple[Json, ...] = ()

    def weights(self) -> list[np.ndarray]:
        return []

    def state_bytes(self) -> int:
        return 0


class CpuStream(Stream):
    route = "native loop"
    STAGGER = 1040  # elements: a page and a line of the cache

    def __init__(self, size: int, written: int, threads: int) -> None:
        import tf_optim_ext

        if reason := tf_optim_ext.native.why_not():
            raise server.Missing(f"no native library: {reason}")
        # Tiny, so that adding it in every step leaves the sums far from overflow.
        read = np.full(size, 1e-6, np.float32)
        # A power of two apart they would displace each other in the caches: four times slower.
        skipped = [k * self.STAGGER for k in range(1, written + 1)]
        arrays = [np.ones(size + n, np.float32)[n:] for n in skipped]
        self.step = lambda: tf_optim_ext.native.stream(arrays, [read], threads)

    def finish(self) -> None:
        pass


class GpuStream(Stream):
    route = "one fused addition"

    def __init__(self, size: int, written: int, device: str) -> None:
        with tf.device(device):
            read = tf.fill([size], 1e-6)
            self.arrays = [tf.Variable(tf.ones([size])) for _ in range(written)]

        @tf.function(jit_compile=True)
        def step() -> None:
            for array in self.arrays:
                array.assign_add(read)

        self.step = step

    def finish(self) -> None:
        for array in self.arrays:
            array[:1].numpy()


class Keras(Library):
    def make(self, mode: str, optimizer: str, traces: int) -> TensorFlowStep:
        cls = getattr(keras.optimizers, optimizer, None)
        if cls is None:
            raise server.Missing(f"Keras has no {optimizer}")
        return self.keras_3(cls(**arguments.of(optimizer)), optimizer, mode, traces)


class TfKeras(Library):
    """Keras 2, its newer and its legacy optimizers."""

    def start(self, threads: int, device: str) -> Json:
        import tf_keras

        started = super().start(threads, device)
        started["versions"]["tf_keras"] = tf_keras.__version__
        return started

    def make(self, mode: str, optimizer: str, traces: int) -> TensorFlowStep:
        import tf_keras

        legacy = mode.startswith("legacy_")
        owner = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
        if legacy and optimizer == "AdamW":
            optimizer = "Adam"  # moves as many bytes
        cls = getattr(owner, optimizer, None)
        if cls is None:
            raise server.Missing(f"tf_keras has no {'legacy ' if legacy else ''}{optimizer}")
        # Their class compiles itself where it finds a GPU.
        given = arguments.of(optimizer) | ({} if legacy else {"jit_compile": False})
        return self.keras_2(cls(**given), optimizer, mode.removeprefix("legacy_"), traces)


class RawOps(Library):
    """One `tf.raw_ops.ResourceApply...` for each variable."""

    def make(self, mode: str, optimizer: str, traces: int) -> TensorFlowStep:
        if optimizer == "AdamW":
            optimizer = "Adam"  # moves as many bytes
        update = {"Adam": self._adam, "SGD": self._sgd}.get(optimizer)
        if update is None:
            raise server.Missing(f"no op for {optimizer} is compared")
        with tf.device(self.device):
            state = RawState(self.variables, 2 if optimizer == "Adam" else 1)
        given = arguments.of(optimizer)

        def apply() -> None:
            state.iterations.assign_add(1)
            update(state, given)

        return self._step(state, optimizer, apply, mode, traces)

    def _adam(self, state: "RawState", h: Json) -> None:
        t = tf.cast(state.iterations, tf.float32)
        beta_1, beta_2 = tf.constant(h["beta_1"]), tf.constant(h["beta_2"])
        powers = {"beta1_power": beta_1**t, "beta2_power": beta_2**t}
        for w, g, (m, v) in zip(self.variables, self.gradients, state.slots, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=w.value.handle,
                m=m.handle,
                v=v.handle,
                **powers,
                lr=h["learning_rate"],
                beta1=beta_1,
                beta2=beta_2,
                epsilon=h["epsilon"],
                grad=g,
            )

    def _sgd(self, state: "RawState", h: Json) -> None:
        for w, g, (m,) in zip(self.variables, self.gradients, state.slots, strict=True):
            tf.raw_ops.ResourceApplyKerasMomentum(
                var=w.value.handle,
                accum=m.handle,
                lr=h["learning_rate"],
                grad=g,
                momentum=h["momentum"],
            )


class RawState:
    """Slots and the number of steps."""

    route = "one op for each variable"

    def __init__(self, variables: Sequence[Any], slots: int) -> None:
        self.iterations = tf.Variable(0, dtype=tf.int64)
        self.slots = [[tf.Variable(tf.zeros(v.shape)) for _ in range(slots)] for v in variables]

    @property
    def variables(self) -> list[tf.Variable]:
        return [slot for slots in self.slots for slot in slots]


class Server(server.Server):
    """Also tells what a step of this package moves."""

    def program(self, optimizer: str) -> Json:
        return self.library.program(optimizer)


LIBRARIES = {"ours": Ours, "keras": Keras, "tf_keras": TfKeras, "raw_ops": RawOps}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Server(LIBRARIES[sys.argv[1]]()))
