"""Other libraries' optimizers, each in a process and, where needed, an environment of its own."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.options import Options

Json = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A library.

    Attributes:
        label: what tables call it.
        command: module and arguments of its process.
        modes: from the name of a mode to what tables call it.
        requirements: what pip installs into its environment; none: it runs in this one.
        slow: modes that take seconds to compile, or about as long for one step.
    """

    label: str
    command: tuple[str, ...]
    modes: Mapping[str, str]
    requirements: tuple[str, ...] = ()
    slow: tuple[str, ...] = ()


_TENSORFLOW = "benchmarks.peers.of_tensorflow"
_TORCH = "benchmarks.peers.of_torch"
PEERS = {
    "ours": Peer(
        "tf_optim_ext",
        (_TENSORFLOW, "ours"),
        {"eager": "eager", "function": "tf.function", "portable": "portable()", "xla": "XLA"},
        slow=("xla",),
    ),
    "keras": Peer(
        "Keras",
        (_TENSORFLOW, "keras"),
        {"eager": "eager", "function": "tf.function", "xla": "XLA"},
        slow=("eager", "xla"),
    ),
    "tf_keras": Peer(
        "tf_keras",
        (_TENSORFLOW, "tf_keras"),
        {
            "eager": "eager",
            "function": "tf.function",
            "legacy_eager": "legacy, eager",
            "legacy_function": "legacy, tf.function",
        },
        slow=("eager", "legacy_eager"),
    ),
    "raw_ops": Peer(
        "tf.raw_ops",
        (_TENSORFLOW, "raw_ops"),
        {"eager": "eager", "function": "tf.function"},
    ),
    "torch": Peer(
        "PyTorch",
        (_TORCH, "torch"),
        {"loop": "for-loop", "foreach": "foreach", "fused": "fused"},
        ("torch", "numpy"),
    ),
    "optax": Peer(
        "optax",
        ("benchmarks.peers.of_optax",),
        {"jit": "jax.jit"},
        ("jax", "optax", "numpy"),
        slow=("jit",),
    ),
    "pytorch_optimizer": Peer(
        "pytorch-optimizer",
        (_TORCH, "pytorch_optimizer"),
        {"eager": "eager"},
        ("torch", "pytorch-optimizer", "numpy"),
    ),
}
OTHERS = tuple(name for name in PEERS if name != "ours")


class PeerError(RuntimeError):
    """A peer did not do what it was asked for; the message is what its row says."""


class PeerMissing(PeerError):
    """What was asked for does not exist: the library, its environment, or an optimizer in it."""


def python_of(name: str, pythons: Mapping[str, str]) -> str:
    """The interpreter of a peer; makes its environment if there is none yet.

    Raises:
        PeerMissing: the environment cannot be made.
    """
    peer = PEERS[name]
    if not peer.requirements or name in pythons:
        return pythons.get(name, sys.executable)
    folder = environments() / name
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists():
        return str(python)
    try:
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "-q", *peer.requirements]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing(f"no environment: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise PeerMissing(f"no environment: {last[:200]}")
    complete.touch()
    return str(python)


def environments() -> Path:
    """The folder with environments of peers, which are kept for the next run."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tf_optim_ext" / "benchmarks"


class Process:
    """A process that answers requests: lines of JSON, see `server`."""

    def __init__(self, label: str, command: list[str]) -> None:
        """Starts it.

        Raises:
            PeerError: it cannot be started.
        """
        self.label = label
        self._ended = ""  # why, if it did
        # A pipe that nobody reads would stop it once it is full. `close` closes the file.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
            )
        except OSError as error:
            self._said.close()
            raise PeerError(f"{command[0]} does not start: {error}") from error

    def ask(self, request: str, **arguments: Any) -> Json:
        """The answer to a request.

        Raises:
            PeerMissing: what was asked for does not exist.
            PeerError: it failed, or the process ended.
        """
        if self._ended:
            raise PeerError(self._ended)
        try:
            line = json.dumps({"request": request, **arguments})
            print(line, file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            self._ended = self._last_words()
            raise PeerError(self._ended)
        answer = json.loads(line)
        if "missing" in answer:
            raise PeerMissing(answer["missing"])
        if "error" in answer:
            raise PeerError(f"failed: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._process.communicate()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines()
        last = (lines or [f"exit code {self._process.returncode}"])[-1]
        if last.startswith("ModuleNotFoundError: No module named "):
            return f"{last.split()[-1].strip(chr(39))} not installed"
        return f"{self.label}'s process ended: {last[:200]}"

    def close(self) -> None:
        """Ends it and gives its memory back."""
        if self._process.poll() is None:
            self._process.communicate()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()


def start(name: str, options: Options) -> tuple[Process, Json]:
    """Starts a peer; returns its process and what it says of itself.

    Raises:
        PeerError: it is missing or does not start.
    """
    return launch(name, PEERS[name].command, options)


def launch(name: str, command: Sequence[str], options: Options) -> tuple[Process, Json]:
    """Starts a module and its arguments with the interpreter of a peer, as `start` does."""
    python = python_of(name, options.pythons)
    process = Process(PEERS[name].label, [python, "-m", *command])
    try:
        about = process.ask(
            "start",
            threads=options.threads,
            device=options.device,
            keep_memory=options.keep_memory,
        )
    except PeerError:
        process.close()
        raise
    return process, about


Starter = Callable[[str, Options], tuple[Process, Json]]
