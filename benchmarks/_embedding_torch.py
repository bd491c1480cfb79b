"""PyTorch's SparseAdam, in a process of its own: requests and answers are lines of JSON.

Started by `_embedding_rows.Worker` with the interpreter that has PyTorch. It never imports
TensorFlow: both bring thread pools and allocators, and a process is to have one of each.
"""

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import _embedding_cases as cases
import _harness
import torch

Json = dict[str, Any]


class Measured:
    """An embedding table with its optimizer and its gradients."""

    def __init__(self, table: torch.Tensor, given: list[cases.Gradient], rate: float) -> None:
        self.table = torch.nn.Parameter(table)
        betas = (cases.BETA_1, cases.BETA_2)
        self.optimizer = torch.optim.SparseAdam([self.table], rate, betas, cases.EPSILON)
        # As the backward pass leaves them: not coalesced.
        shape = tuple(table.shape)
        self.gradients = itertools.cycle(
            [
                torch.sparse_coo_tensor(
                    torch.from_numpy(ids)[None], torch.from_numpy(values), shape
                )
                for ids, values in given
            ]
        )

    def step(self) -> None:
        self.table.grad = next(self.gradients)
        self.optimizer.step()

    def window(self, steps: int) -> float:
        """Seconds per step."""
        if steps > 1:
            self.step()  # whatever ran before left its own data in the caches
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return (time.perf_counter() - start) / steps


class Requests:
    """What can be asked for; the methods' names are those of the requests."""

    def __init__(self) -> None:
        self.measured: Measured | None = None

    def start(self, threads: int, keep_memory: bool) -> Json:
        torch.set_num_threads(threads)
        kept = keep_memory and _harness.keep_freed_memory()
        return {"version": torch.__version__, "kept": kept}

    def check(self, seed: int) -> Json:
        """The small table after one step with each of its gradients."""
        given = cases.gradients(cases.CHECKED, seed)
        measured = Measured(torch.from_numpy(cases.small_table(seed)), given, cases.CHECK_RATE)
        for _ in given:
            measured.step()
        return {"table": measured.table.detach().numpy().tolist()}

    def build(self, case: Json, seed: int) -> Json:
        shape = cases.Case(**case)
        given = cases.gradients(shape, seed)
        table = torch.rand(shape.table_rows, shape.width)
        self.measured = Measured(table, given, 1e-3)
        for _ in given:
            self.measured.step()  # touches the slots' memory, which may be none before
        gc.collect()
        gc.freeze()
        return {"checksum": cases.checksum(given)}

    def window(self, steps: int) -> Json:
        return {"seconds": self._built().window(steps)}

    def peak_growth(self) -> Json:
        return {"bytes": _harness.peak_growth(self._built().step)}

    def _built(self) -> Measured:
        if self.measured is None:
            raise RuntimeError("`build` comes first")
        return self.measured


def serve(lines: TextIO, answers: TextIO) -> None:
    requests = Requests()
    for line in lines:
        request = json.loads(line)
        try:
            method: Callable[..., Json] = getattr(requests, request.pop("request"))
            answer = method(**request)
        except Exception as error:  # the other process says which row it costs
            answer = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # What libraries print must not end up between the answers.
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, private)
