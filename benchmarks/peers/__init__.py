"""The libraries that are measured, ours and baselines, each in a process of its own."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        label: what tables call it.
        command: module and arguments of its process.
        modes: from the name of a mode to what tables call it.
        requirements: what pip installs into its environment; none: it runs in this one.
        slow: modes that take seconds to compile, or about as long for one step.
        sparse: which of `arguments.SPARSE` its steps over embedding tables are, if one of them.
    """

    label: str
    command: tuple[str, ...]
    modes: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()
    sparse: str = ""


SPARSE = ("sparse",)  # modes for embedding tables only
_TENSORFLOW = "benchmarks.peers.of_tensorflow"
_LEGACY = {"legacy_eager": "legacy, eager", "legacy_function": "legacy, tf.function"}
_KERAS_2 = {"keras_2_eager": "Keras 2, eager", "keras_2_function": "Keras 2, tf.function"}
_TORCH_MODES = {"loop": "for-loop", "foreach": "foreach", "fused": "fused"}
_EAGER, _FUNCTION, _XLA = {"eager": "eager"}, {"function": "tf.function"}, {"xla": "XLA"}
PEERS = {
    "ours": Peer(
        "tf_optim_ext",
        (_TENSORFLOW, "ours"),
        {**_EAGER, **_FUNCTION, "portable": "portable()", **_XLA, **_KERAS_2},
        slow=("xla",),
    ),
    "keras": Peer(
        "Keras", (_TENSORFLOW, "keras"), {**_EAGER, **_FUNCTION, **_XLA}, slow=("eager", "xla")
    ),
    "tf_keras": Peer(
        "tf_keras",
        (_TENSORFLOW, "tf_keras"),
        {**_EAGER, **_FUNCTION, **_LEGACY},
        slow=("eager", "legacy_eager"),
        sparse="exact",
    ),
    "raw_ops": Peer("tf.raw_ops", (_TENSORFLOW, "raw_ops"), {**_EAGER, **_FUNCTION}),
    "torch": Peer(
        "PyTorch",
        ("benchmarks.peers.of_torch",),
        {**_TORCH_MODES, "sparse": "SparseAdam"},
        ("torch", "numpy"),
        sparse="lazy",
    ),
    "optax": Peer(
        "optax",
        ("benchmarks.peers.of_optax",),
        {"jit": "jax.jit"},
        ("jax", "optax", "numpy"),
        slow=("jit",),
    ),
}
OTHERS = tuple(name for name in PEERS if name != "ours")
