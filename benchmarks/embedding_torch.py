"""PyTorch's SparseAdam: `-m benchmarks.embedding_torch`."""

import contextlib
import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks import embedding_cases, embedding_server
from benchmarks.peers import of_torch, server


class Tables(of_torch.Torch):
    """A table with its optimizer."""

    def table(
        self, weights: np.ndarray, given: Sequence[embedding_cases.Gradient], rate: float
    ) -> None:
        torch = self.torch
        self.parameters = [torch.nn.Parameter(torch.from_numpy(weights).to(self.device))]
        # As the backward pass leaves them: not coalesced.
        self.gradients = [
            torch.sparse_coo_tensor(
                torch.from_numpy(ids)[None], torch.from_numpy(values), weights.shape
            ).to(self.device)
            for ids, values in given
        ]
        self.rate = rate

    def forget(self) -> None:
        super().forget()
        self.gradients = []

    def make(self, mode: str, optimizer: str, traces: int) -> of_torch.TorchStep:
        betas = (embedding_cases.BETA_1, embedding_cases.BETA_2)
        adam = self.torch.optim.SparseAdam(
            self.parameters, self.rate, betas, embedding_cases.EPSILON
        )
        made = of_torch.TorchStep(self, adam, optimizer, f"PyTorch {self.torch.__version__}")
        (table,), turns = self.parameters, itertools.cycle(self.gradients)

        def step() -> None:
            table.grad = next(turns)
            adam.step()

        made.step = step
        return made


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(embedding_server.Server(Tables()))
