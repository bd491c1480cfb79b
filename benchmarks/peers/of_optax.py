"""optax, the whole step under `jax.jit`: `-m benchmarks.peers.of_optax`."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import Json, arguments
from benchmarks.peers import gpu, server

NAMES = {"beta_1": "b1", "beta_2": "b2", "epsilon": "eps", "rho": "decay"}
MORE = {"Lion": {"weight_decay": 0.0}}  # which is not zero by default


def transformation(optax: Any, optimizer: str, options: Sequence[str]) -> Any:
    """The optimizer, with what is around it."""
    given = {NAMES.get(name, name): value for name, value in arguments.of(optimizer).items()}
    if optimizer == "Adadelta":
        given["rho"] = given.pop("decay")
    if "mask" in options:
        given["mask"] = lambda weights: [w.ndim > 1 for w in weights]
    rule = getattr(optax, optimizer.lower())(**given, **MORE.get(optimizer, {}))
    if "clip" in options:
        rule = optax.chain(optax.clip_by_global_norm(arguments.NORM), rule)
    if "accumulate" in options:
        rule = optax.MultiSteps(rule, every_k_schedule=arguments.ACCUMULATED)
    return rule


class OptaxStep(server.Step):
    def __init__(self, library: "Optax", rule: Any, optimizer: str, options: Sequence[str]) -> None:
        self.optimizer_name, self.jax = optimizer, library.jax
        self.route = f"jax.jit ({self.jax.default_backend()})"
        numpy, optax, averaged = self.jax.numpy, library.optax, "ema" in options

        def update(weights: Any, state: Any, means: Any, part: Any, gradients: Any) -> Any:
            updates, state = rule.update(gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            if averaged:
                means = optax.incremental_update(weights, means, part)
            return weights, state, means

        # Without its own copy, what is given away would be missing in the other modes.
        copies = [numpy.array(w, copy=True) for w in library.initial]
        means = [numpy.zeros_like(w) for w in copies] if averaged else []
        self.state, self.part = (copies, rule.init(library.initial), means), 1.0
        compiled = self.jax.jit(update, donate_argnums=(0, 1, 2))

        def step() -> None:
            self.state = compiled(*self.state, self.part, library.gradients)
            self.part = 1 - arguments.EMA_MOMENTUM

        self.step = step

    def finish(self) -> None:
        self.jax.block_until_ready(self.state)

    def weights(self) -> list[np.ndarray]:
        return [np.array(w) for w in self.state[0]]

    def averages(self) -> list[np.ndarray]:
        return [np.array(mean) for mean in self.state[2]]

    def state_bytes(self) -> int:
        leaves = self.jax.tree.leaves(self.state[1:])
        return sum(int(leaf.nbytes) for leaf in leaves if leaf.dtype == np.float32)


class Optax:
    def start(self, threads: int, device: str) -> Json:
        os.environ.setdefault("JAX_PLATFORMS", "cuda" if device == "gpu" else "cpu")
        # Other processes have something on the same card.
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        import jax
        import optax

        self.jax, self.optax = jax, optax
        # It has no switch for the number of threads; the process is bound to as many CPUs.
        about: Json = {"versions": {"jax": jax.__version__, "optax": optax.__version__}}
        if device == "gpu":
            try:
                (first, *_) = jax.devices("gpu")
            except RuntimeError as error:
                raise server.Missing("JAX sees no GPU") from error
            about["gpu"] = {"name": first.device_kind, "driver": gpu.driver()}
        return about

    def case(self, weights: Sequence[np.ndarray], turns: server.Turns) -> None:
        (gradients,) = turns
        self.initial = [self.jax.numpy.asarray(w) for w in weights]
        self.gradients = [self.jax.numpy.asarray(g) for g in gradients]

    def forget(self) -> None:
        self.initial, self.gradients = [], []

    def make(self, mode: str, optimizer: str, options: Sequence[str], traces: int) -> OptaxStep:
        if optimizer not in arguments.ARGUMENTS:
            raise server.Missing(f"optax has no {optimizer} with these arguments")
        rule = transformation(self.optax, optimizer, options)
        return OptaxStep(self, rule, optimizer, options)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(server.Server(Optax()))
