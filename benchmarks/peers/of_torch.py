"""PyTorch and pytorch-optimizer: `-m benchmarks.peers.of_torch torch`."""

import contextlib
import importlib.metadata
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import arguments
from benchmarks.peers import server

Json = dict[str, Any]
MODES = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
NAMES = {"learning_rate": "lr", "epsilon": "eps"}


def renamed(given: Json) -> Json:
    """Arguments with PyTorch's names."""
    found = {NAMES.get(name, name): value for name, value in given.items()}
    if "beta_1" in found:
        found["betas"] = (found.pop("beta_1"), found.pop("beta_2"))
    return found


class TorchStep:
    def __init__(self, library: "Torch", optimizer: Any, name: str, route: str) -> None:
        self.library, self.optimizer = library, optimizer
        self.optimizer_name, self.route = name, route
        self.traces: list[Json] = []
        self.step = lambda: optimizer.step() and None

    def finish(self) -> None:
        self.library.synchronize()

    def weights(self) -> list[np.ndarray]:
        return [p.detach().cpu().numpy().copy() for p in self.library.parameters]

    def state_bytes(self) -> int:
        tensors = [
            value
            for state in self.optimizer.state.values()
            for name, value in state.items()
            if hasattr(value, "element_size") and name != "step"
        ]
        return sum(t.numel() * t.element_size() for t in tensors)


class Torch:
    """`torch.optim`: a loop over the parameters, operations over lists of them, or fused."""

    def start(self, threads: int, device: str) -> Json:
        import torch

        self.torch = torch
        torch.set_num_threads(threads)
        if device == "gpu" and not torch.cuda.is_available():
            raise server.Missing("PyTorch sees no GPU")
        self.device = "cuda" if device == "gpu" else "cpu"
        return {"versions": {"torch": torch.__version__}}

    def case(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        tensor = self.torch.tensor
        self.parameters = [self.torch.nn.Parameter(tensor(w).to(self.device)) for w in weights]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = tensor(gradient).to(self.device)

    def forget(self) -> None:
        self.parameters = []

    def synchronize(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def make(self, mode: str, optimizer: str, traces: int) -> TorchStep:
        cls = getattr(self.torch.optim, optimizer, None)
        if cls is None:
            raise server.Missing(f"PyTorch has no {optimizer}")
        given = renamed(arguments.of(optimizer))
        if optimizer == "RMSprop":
            given["alpha"] = given.pop("rho")
        try:
            made = cls(self.parameters, **given, **MODES[mode])
        except (TypeError, RuntimeError) as error:
            raise server.Missing(f"PyTorch's {optimizer} has no mode {mode!r}") from error
        return TorchStep(self, made, optimizer, mode)


class PytorchOptimizer(Torch):
    """The package pytorch-optimizer."""

    def start(self, threads: int, device: str) -> Json:
        import pytorch_optimizer

        self.module = pytorch_optimizer
        started = super().start(threads, device)
        version = importlib.metadata.version("pytorch_optimizer")
        started["versions"]["pytorch_optimizer"] = version
        return started

    def make(self, mode: str, optimizer: str, traces: int) -> TorchStep:
        own = {cls.__name__.lower(): cls for cls in self._classes()}
        cls = own.get(optimizer.lower())
        if cls is None:
            raise server.Missing(f"pytorch-optimizer has no {optimizer} of its own")
        made = cls(self.parameters, **renamed(arguments.of(optimizer)))
        return TorchStep(self, made, optimizer, mode)

    def _classes(self) -> list[type]:
        """Those that are not PyTorch's."""
        found = [getattr(self.module, name) for name in dir(self.module)]
        own = [cls for cls in found if isinstance(cls, type)]
        return [cls for cls in own if cls.__module__.startswith("pytorch_optimizer")]


LIBRARIES = {"torch": Torch, "pytorch_optimizer": PytorchOptimizer}

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(server.Server(LIBRARIES[sys.argv[1]]()))
