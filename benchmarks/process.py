"""Processes of peers, each in its environment; see `peers.server` for what they answer."""

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ROOT, Json
from benchmarks.options import Options
from benchmarks.peers import PEERS


class PeerError(RuntimeError):
    """A peer did not do what it was asked for; the message is what its row says."""


class PeerMissing(PeerError):
    """What was asked for does not exist: the library, its environment, or an optimizer in it."""


def python_of(name: str, pythons: Mapping[str, str]) -> str:
    """The interpreter of a peer; makes its environment, which is kept, if there is none yet.

    Raises:
        PeerMissing: the environment cannot be made.
    """
    peer = PEERS[name]
    if not peer.requirements or name in pythons:
        return pythons.get(name, sys.executable)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tf_optim_ext" / "benchmarks" / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        pip = [str(python), "-m", "pip", "install", "-q", *peer.requirements]
        try:
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run(pip, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise PeerMissing(f"no environment: {said.strip().splitlines()[-1][:200]}") from error
        complete.touch()
    return str(python)


class Process:
    """A process that answers requests: lines of JSON, see `peers.server`."""

    def __init__(self, label: str, command: list[str]) -> None:
        """Starts it.

        Raises:
            PeerError: it cannot be started.
        """
        self.label = label
        self._ended = ""  # why, if it did
        # A pipe that nobody reads would stop it once it is full. `close` closes the file.
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipes: Json = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        try:
            self._process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
        except OSError as error:
            self._said.close()
            raise PeerError(f"{command[0]} does not start: {error}") from error

    def ask(self, request: str, **given: Any) -> Json:
        """The answer to a request.

        Raises:
            PeerMissing: what was asked for does not exist.
            PeerError: it failed, or the process ended.
        """
        if self._ended:
            raise PeerError(self._ended)
        try:
            line = json.dumps({"request": request, **given})
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


def start(
    name: str, options: Options, command: Sequence[str] | None = None
) -> tuple[Process, Json]:
    """Starts a peer, or another module with its interpreter; returns what it says of itself.

    Raises:
        PeerError: it is missing or does not start.
    """
    python = python_of(name, dict(options.python))
    process = Process(PEERS[name].label, [python, "-m", *(command or PEERS[name].command)])
    settings = {"threads": options.threads, "device": options.device}
    try:
        return process, process.ask("start", **settings, keep_memory=options.keep_memory)
    except PeerError:
        process.close()
        raise


Starter = Callable[[str, Options], tuple[Process, Json]]
