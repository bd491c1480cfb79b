"""This package, Keras, tf_keras, TensorFlow's ops: `-m benchmarks.peers.of_tensorflow ours`."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

# TensorFlow reads this when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks import Json, arguments, timing
from benchmarks.peers import gpu, server

Gradients = list[Any]  # tensors, or IndexedSlices
Apply = Callable[[Gradients], None]
Options = Sequence[str]


class TensorFlowStep(server.Step):
    """Steps with the gradients of a library in turn.

    A function captures the gradients where they are always the same; otherwise it takes them.
    """

    def __init__(
        self, library: "Library", optimizer: Any, name: str, apply: Apply, mode: str, traces: int
    ) -> None:
        self.optimizer, self.optimizer_name = optimizer, name
        self.variables = library.variables
        compiled = True if mode == "xla" else None
        if len(library.turns) > 1:
            used = apply if mode == "eager" else tf.function(apply, jit_compile=compiled)
            turns = itertools.cycle(library.turns)
            self.step = lambda: used(next(turns))
            return
        (gradients,) = library.turns
        self.step = eager = lambda: apply(gradients)
        self.traces = []
        for _ in range(traces if mode != "eager" else 0):
            self.step = tf.function(eager, jit_compile=compiled)
            self.traces.append(timing.trace(self.step))

    @property
    def route(self) -> str:
        return str(getattr(self.optimizer, "route", ""))

    def finish(self) -> None:
        wait_for(self.variables)

    def weights(self) -> list[np.ndarray]:
        return [np.array(v.numpy()) for v in self.variables]

    def averages(self) -> list[np.ndarray]:
        self.optimizer.finalize_variable_values(self.variables)
        return self.weights()

    def state_bytes(self) -> int:
        found = self.optimizer.variables
        kept = list(found() if callable(found) else found)
        kept = [v for v in kept if v is not self.optimizer.iterations]
        return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in kept)


def wait_for(variables: Sequence[keras.Variable]) -> None:
    """Waits until the device has updated the last of them: its first element is read."""
    tf.reshape(variables[-1].value, [-1])[:1].numpy()


class Library:
    """Weights and gradients on one device, shared by all steps; slots are each one's."""

    def start(self, threads: int, device: str) -> Json:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        tf.get_logger().setLevel("ERROR")
        self.threads, self.device = threads, f"/{device.upper()}:0"
        about: Json = {"versions": {"tensorflow": tf.__version__, "keras": keras.__version__}}
        return about | (share_gpus() if device == "gpu" else {})

    def case(self, weights: Sequence[np.ndarray], turns: server.Turns) -> None:
        with tf.device(self.device):
            self.variables = [keras.Variable(w, dtype="float32") for w in weights]
            self.turns = [
                [_tensor(g, w.shape) for g, w in zip(turn, weights, strict=True)] for turn in turns
            ]

    def forget(self) -> None:
        self.variables, self.turns = [], []

    def step(self, made: Any, name: str, apply: Apply, mode: str, traces: int) -> TensorFlowStep:
        with tf.device(self.device):
            return TensorFlowStep(self, made, name, apply, mode, traces)

    def of_module(
        self, owner: Any, name: str, mode: str, options: Options, traces: int
    ) -> TensorFlowStep:
        """Steps of an optimizer of a module; those of `tf_optim_ext.tf_keras` are Keras 2's."""
        is_keras_2 = owner.__name__.endswith("tf_keras")
        variables = [v.value for v in self.variables] if is_keras_2 else self.variables
        cls = getattr(owner, name, None)
        if cls is None:
            raise server.Missing(f"{owner.__name__} has no {name}")
        made = cls(**arguments.with_options(name, options))
        if "mask" in options:
            made.exclude_from_weight_decay([v for v in variables if len(v.shape) < 2])
        with tf.device(self.device):
            made.build(variables)

        def apply(gradients: Gradients) -> None:
            made.apply(gradients, variables)

        return self.step(made, name, apply, mode, traces)


def _tensor(gradient: server.Gradient, shape: server.Shape) -> Any:
    if isinstance(gradient, tuple):
        ids, rows = map(tf.constant, gradient)
        return tf.IndexedSlices(rows, ids, tf.constant(shape, tf.int64))
    return tf.constant(gradient)


def share_gpus() -> Json:
    """Takes memory of the GPUs as it is needed only; returns what the first one is."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        raise server.Missing("TensorFlow sees no GPU")
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)
    details = tf.config.experimental.get_device_details(devices[0])
    return {"gpu": {"name": details.get("device_name"), "driver": gpu.driver()}}


class Ours(Library):
    """This package, and STREAM. What is used of its internals is used here."""

    def start(self, threads: int, device: str) -> Json:
        import tf_optim_ext

        started, native = super().start(threads, device), tf_optim_ext.native
        started["versions"]["tf_optim_ext"] = tf_optim_ext.__version__
        started["native"] = native.instruction_set()
        return started

    def make(self, mode: str, optimizer: str, options: Options, traces: int) -> server.Step:
        import tf_optim_ext

        if mode.startswith("stream"):
            return self._stream(int(mode.removeprefix("stream")))
        if mode.startswith("keras_2_"):
            mode, owner = mode.removeprefix("keras_2_"), tf_optim_ext.tf_keras
            return self.of_module(owner, optimizer, mode, options, traces)
        if mode != "portable":
            return self.of_module(tf_optim_ext, optimizer, mode, options, traces)
        with tf_optim_ext.portable():
            return self.of_module(tf_optim_ext, optimizer, "function", options, traces)

    def names(self) -> list[str]:
        from tf_optim_ext import optimizers

        return [cls.__name__ for cls in optimizers.ALL]

    def program(self, optimizer: str) -> Json:
        """What the passes of a step read and write of each weight, and how many slots there are."""
        import tf_optim_ext

        cls = getattr(tf_optim_ext, optimizer, None)
        if cls is None:
            raise server.Missing(f"tf_optim_ext has no {optimizer}")
        program = cls(**arguments.of(optimizer))._program()
        passes = [program.accesses(stage) for stage in range(program.passes)]
        moved = 4 * sum(len(reads) + len(writes) for reads, writes in passes)
        return {"slots": len(program.slots), "passes": program.passes, "bytes_per_weight": moved}

    def _stream(self, written: int) -> server.Step:
        weights = sum(int(np.prod(v.shape)) for v in self.variables)
        if self.device == "/GPU:0":
            return gpu.Copy(4 * weights * (2 * written + 1))
        return Stream(weights, written, self.threads)


class Stream(server.Step):
    """Reads one array, and reads and writes others, as fast as memory allows."""

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

    def run(self, steps: int) -> float:
        return sum(self.step() for _ in range(steps)) / steps


class Keras(Library):
    def make(self, mode: str, optimizer: str, options: Options, traces: int) -> TensorFlowStep:
        return self.of_module(keras.optimizers, optimizer, mode, options, traces)


class TfKeras(Library):
    """Keras 2, its newer and its legacy optimizers."""

    def start(self, threads: int, device: str) -> Json:
        import tf_keras

        started = super().start(threads, device)
        started["versions"]["tf_keras"] = tf_keras.__version__
        return started

    def make(self, mode: str, optimizer: str, options: Options, traces: int) -> TensorFlowStep:
        import tf_keras

        server.refuse(options, "tf_keras")
        legacy = mode.startswith("legacy_")
        owner = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
        if legacy and optimizer == "AdamW":
            optimizer = "Adam"  # moves as many bytes
        cls = getattr(owner, optimizer, None)
        if cls is None:
            raise server.Missing(f"tf_keras has no {'legacy ' if legacy else ''}{optimizer}")
        # Their class compiles itself where it finds a GPU.
        given = arguments.of(optimizer) | ({} if legacy else {"jit_compile": False})
        made, variables = cls(**given), [v.value for v in self.variables]

        def apply(gradients: Gradients) -> None:
            made.apply_gradients(zip(gradients, variables, strict=True))

        return self.step(made, optimizer, apply, mode.removeprefix("legacy_"), traces)


class RawOps(Library):
    """One `tf.raw_ops.ResourceApply...` for each variable."""

    def make(self, mode: str, optimizer: str, options: Options, traces: int) -> TensorFlowStep:
        server.refuse(options, "a loop over tf.raw_ops")
        if optimizer == "AdamW":
            optimizer = "Adam"  # moves as many bytes
        update = {"Adam": self._adam, "SGD": self._sgd}.get(optimizer)
        if update is None:
            raise server.Missing(f"no op for {optimizer} is compared")
        with tf.device(self.device):
            state = RawState(self.variables, 2 if optimizer == "Adam" else 1)
        given = arguments.of(optimizer)

        def apply(gradients: Gradients) -> None:
            state.iterations.assign_add(1)
            update(state, gradients, given)

        return self.step(state, optimizer, apply, mode, traces)

    def _adam(self, state: "RawState", gradients: Gradients, h: Json) -> None:
        t = tf.cast(state.iterations, tf.float32)
        beta_1, beta_2 = tf.constant(h["beta_1"]), tf.constant(h["beta_2"])
        shared = {"lr": h["learning_rate"], "epsilon": h["epsilon"]}
        shared |= {"beta1_power": beta_1**t, "beta2_power": beta_2**t}
        shared |= {"beta1": beta_1, "beta2": beta_2}
        for w, g, (m, v) in zip(self.variables, gradients, state.slots, strict=True):
            handles = {"var": w.value.handle, "m": m.handle, "v": v.handle}
            tf.raw_ops.ResourceApplyAdam(**handles, grad=g, **shared)

    def _sgd(self, state: "RawState", gradients: Gradients, h: Json) -> None:
        shared = {"lr": h["learning_rate"], "momentum": h["momentum"]}
        for w, g, (m,) in zip(self.variables, gradients, state.slots, strict=True):
            handles = {"var": w.value.handle, "accum": m.handle}
            tf.raw_ops.ResourceApplyKerasMomentum(**handles, grad=g, **shared)


class RawState:
    """Slots and the number of steps."""

    route = "one op for each variable"

    def __init__(self, variables: Sequence[Any], slots: int) -> None:
        self.iterations = tf.Variable(0, dtype=tf.int64)
        self.slots = [[tf.Variable(tf.zeros(v.shape)) for _ in range(slots)] for v in variables]
        self.variables = [slot for slots in self.slots for slot in slots]


class Server(server.Server):
    """Also tells which optimizers this package has, and what a step of them moves."""

    def program(self, optimizer: str) -> Json:
        return self.library.program(optimizer)

    def names(self) -> Json:
        return {"names": self.library.names()}


LIBRARIES = {"ours": Ours, "keras": Keras, "tf_keras": TfKeras, "raw_ops": RawOps}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(Server(LIBRARIES[sys.argv[1]]()))
