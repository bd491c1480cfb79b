"""optax, the whole step under `jax.jit`: `-m benchmarks.peers.of_optax`."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import arguments
from benchmarks.peers import server

Json = dict[str, Any]


def transformation(optax: Any, optimizer: str) -> Any:
    """The optimizer, or None if there is none with the same arguments."""
    h = arguments.of(optimizer)
    betas = {"b1": h.get("beta_1"), "b2": h.get("beta_2")}
    adam = {**betas, "eps": h.get("epsilon")}
    makers = {
        "AdamW": lambda: optax.adamw(h["learning_rate"], **adam, weight_decay=h["weight_decay"]),
        "Adam": lambda: optax.adam(h["learning_rate"], **adam),
        "Adamax": lambda: optax.adamax(h["learning_rate"], **adam),
        "Lamb": lambda: optax.lamb(h["learning_rate"], **adam),
        "SGD": lambda: optax.sgd(h["learning_rate"], momentum=h["momentum"]),
        "Lion": lambda: optax.lion(h["learning_rate"], **betas, weight_decay=0.0),
        "RMSprop": lambda: optax.rmsprop(h["learning_rate"], decay=h["rho"], eps=h["epsilon"]),
        "Adagrad": lambda: optax.adagrad(
            h["learning_rate"], h["initial_accumulator_value"], h["epsilon"]
        ),
        "Adadelta": lambda: optax.adadelta(h["learning_rate"], rho=h["rho"], eps=h["epsilon"]),
    }
    return makers[optimizer]() if optimizer in makers else None


class OptaxStep:
    def __init__(self, library: "Optax", rule: Any, optimizer: str) -> None:
        self.optimizer_name = optimizer
        jax, optax = library.jax, library.optax
        self.jax, self.route = jax, f"jax.jit ({jax.default_backend()})"
        self.traces: list[Json] = []

        def update(weights: Any, state: Any, gradients: Any) -> Any:
            updates, state = rule.update(gradients, state, weights)
            return optax.apply_updates(weights, updates), state

        # Without its own copy, what is given away would be missing in the other modes.
        self.state = (
            [jax.numpy.array(w, copy=True) for w in library.initial],
            rule.init(library.initial),
        )
        compiled = jax.jit(update, donate_argnums=(0, 1))

        def step() -> None:
            self.state = compiled(*self.state, library.gradients)

        self.step = step

    def finish(self) -> None:
        self.jax.block_until_ready(self.state)

    def weights(self) -> list[np.ndarray]:
        return [np.array(w) for w in self.state[0]]

    def state_bytes(self) -> int:
        leaves = self.jax.tree.leaves(self.state[1])
        return sum(int(leaf.nbytes) for leaf in leaves if leaf.dtype == np.float32)


class Optax:
    def start(self, threads: int, device: str) -> Json:
        os.environ.setdefault("JAX_PLATFORMS", "cuda" if device == "gpu" else "cpu")
        import jax
        import optax

        if device == "gpu":
            try:
                jax.devices("gpu")
            except RuntimeError as error:
                raise server.Missing("JAX sees no GPU") from error
        self.jax, self.optax = jax, optax
        # It has no switch for the number of threads; the process is bound to as many CPUs.
        return {"versions": {"jax": jax.__version__, "optax": optax.__version__}}

    def case(self, weights: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        self.initial = [self.jax.numpy.asarray(w) for w in weights]
        self.gradients = [self.jax.numpy.asarray(g) for g in gradients]

    def forget(self) -> None:
        self.initial, self.gradients = [], []

    def make(self, mode: str, optimizer: str, traces: int) -> OptaxStep:
        rule = transformation(self.optax, optimizer)
        if rule is None:
            raise server.Missing(f"optax has no {optimizer} with these arguments")
        return OptaxStep(self, rule, optimizer)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(server.Server(Optax()))
