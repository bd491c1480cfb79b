"""PyTorch: `-m benchmarks.peers.of_torch`."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import Json, arguments
from benchmarks.peers import gpu, server

MODES = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
NAMES = {"learning_rate": "lr", "epsilon": "eps"}


def renamed(optimizer: str) -> Json:
    """Arguments with PyTorch's names."""
    found = {NAMES.get(name, name): value for name, value in arguments.of(optimizer).items()}
    if "beta_1" in found:
        found["betas"] = (found.pop("beta_1"), found.pop("beta_2"))
    if optimizer == "RMSprop":
        found["alpha"] = found.pop("rho")
    return found


class TorchStep(server.Step):
    """Steps of an optimizer, with gradients in turn."""

    def __init__(self, library: "Torch", optimizer: Any, name: str, route: str) -> None:
        self.library, self.optimizer, self.parameters = library, optimizer, library.parameters
        self.optimizer_name, self.route = name, route
        self.turns, self.step = itertools.cycle(library.turns), optimizer.step
        if len(library.turns) > 1:
            self.step = self._with_next
        else:
            self._give(library.turns[0])

    def _give(self, gradients: Sequence[Any]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def _with_next(self) -> None:
        self._give(next(self.turns))
        self.optimizer.step()

    def finish(self) -> None:
        if self.library.device == "cuda":
            self.library.torch.cuda.synchronize()

    def weights(self) -> list[np.ndarray]:
        return [p.detach().cpu().numpy().copy() for p in self.parameters]

    def state_bytes(self) -> int:
        states = [item for state in self.optimizer.state.values() for item in state.items()]
        kept = [value for name, value in states if name != "step"]
        return sum(t.numel() * t.element_size() for t in kept if hasattr(t, "numel"))


class StepWithOptions(TorchStep):
    """What PyTorch's users write around a step: sums of gradients, clipping, averages."""

    def __init__(
        self, library: "Torch", optimizer: Any, name: str, route: str, options: Sequence[str]
    ) -> None:
        super().__init__(library, optimizer, name, route)
        self.torch, self.clips, self.step = library.torch, "clip" in options, self._step
        self.every, zeros = arguments.updates_every(options), library.torch.zeros_like
        (self.gradients,) = library.turns
        self.sums = [zeros(g) for g in self.gradients] if self.every > 1 else []
        self.means = [zeros(p) for p in self.parameters] if "ema" in options else []
        self.taken = 0
        self._give(self.sums or self.gradients)

    def _step(self) -> None:
        self.taken += 1
        if self.sums:
            self.torch._foreach_add_(self.sums, self.gradients, alpha=1 / self.every)
            if self.taken % self.every:
                return
        if self.clips:
            # In place: from the second time on, the norm is 1, which takes as long.
            self.torch.nn.utils.clip_grad_norm_(self.parameters, arguments.NORM, foreach=True)
        self.optimizer.step()
        if self.sums:
            self.torch._foreach_zero_(self.sums)
        if self.means:
            first = self.taken == self.every
            weights = [p.detach() for p in self.parameters]
            part = 1.0 if first else 1 - arguments.EMA_MOMENTUM
            self.torch._foreach_lerp_(self.means, weights, part)

    def averages(self) -> list[np.ndarray]:
        return [mean.cpu().numpy().copy() for mean in self.means]

    def state_bytes(self) -> int:
        kept = (*self.means, *self.sums)
        return super().state_bytes() + sum(t.numel() * t.element_size() for t in kept)


class Torch:
    """`torch.optim`: a loop over the parameters, operations over lists of them, or fused."""

    def start(self, threads: int, device: str) -> Json:
        import torch

        self.torch, self.device = torch, "cuda" if device == "gpu" else "cpu"
        torch.set_num_threads(threads)
        about: Json = {"versions": {"torch": torch.__version__}}
        if device == "gpu":
            if not torch.cuda.is_available():
                raise server.Missing("PyTorch sees no GPU")
            about["gpu"] = {"name": torch.cuda.get_device_name(), "driver": gpu.driver()}
        return about

    def case(self, weights: Sequence[np.ndarray], turns: server.Turns) -> None:
        tensor, parameter = self.torch.tensor, self.torch.nn.Parameter
        self.parameters = [parameter(tensor(w).to(self.device)) for w in weights]
        self.turns = [
            [self._gradient(g, w.shape) for g, w in zip(turn, weights, strict=True)]
            for turn in turns
        ]

    def _gradient(self, gradient: server.Gradient, shape: server.Shape) -> Any:
        if isinstance(gradient, tuple):
            ids, rows = map(self.torch.from_numpy, gradient)
            # As the backward pass leaves it: not coalesced.
            return self.torch.sparse_coo_tensor(ids[None], rows, shape).to(self.device)
        return self.torch.tensor(gradient).to(self.device)

    def forget(self) -> None:
        self.parameters, self.turns = [], []

    def make(self, mode: str, optimizer: str, options: Sequence[str], traces: int) -> TorchStep:
        if mode == "sparse":
            made = self.torch.optim.SparseAdam(self.parameters, **renamed(optimizer))
            return TorchStep(self, made, optimizer, "")
        cls = getattr(self.torch.optim, optimizer, None)
        if cls is None:
            raise server.Missing(f"PyTorch has no {optimizer}")
        try:
            made = cls(self._groups(options), **renamed(optimizer), **MODES[mode])
        except (TypeError, RuntimeError) as error:
            raise server.Missing(f"PyTorch's {optimizer} has no mode {mode!r}") from error
        if {*options} <= {"mask"}:
            return TorchStep(self, made, optimizer, mode)
        return StepWithOptions(self, made, optimizer, mode, options)

    def _groups(self, options: Sequence[str]) -> list[Any]:
        if "mask" not in options:
            return self.parameters
        decayed = [p for p in self.parameters if p.ndim > 1]
        others = [p for p in self.parameters if p.ndim < 2]
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(server.Server(Torch()))
