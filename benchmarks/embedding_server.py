"""The side of a process that updates embedding tables. Imports NumPy alone, as `peers.server`."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks import embedding_cases, timing
from benchmarks.peers import server

Json = dict[str, Any]
RATE = 1e-3


class Library(server.Library, Protocol):
    """A library whose steps update one table, with each of some gradients in turn."""

    def table(
        self, weights: np.ndarray, given: Sequence[embedding_cases.Gradient], rate: float
    ) -> None:
        """Makes the table and the gradients that the steps of `make` share."""


class Server(server.Server):
    """Tables in place of dense weights."""

    library: Library

    def start(self, threads: int, device: str, keep_memory: bool) -> Json:
        about = super().start(threads, device, keep_memory)
        self._kept = about["malloc_keeps_memory"]
        return about

    def check_table(self, mode: str, seed: int) -> Json:
        """The small table after one step with each of its gradients."""
        given = embedding_cases.gradients(embedding_cases.CHECKED, seed)
        small = embedding_cases.small_table(seed)
        self.library.table(small, given, embedding_cases.CHECK_RATE)
        step = self.library.make(mode, "Adam", 1)
        for _ in given:
            step.step()
        step.finish()
        (table,) = step.weights()
        self.library.forget()
        return {"table": table.tolist()}

    def table(self, case: Json, seed: int, keep_large_blocks: bool) -> Json:
        """Makes the table and its gradients for the rows to come."""
        self.drop()
        if self._kept:
            timing.keep_large_blocks(keep_large_blocks)
        wanted = embedding_cases.Case(**case)
        given = embedding_cases.gradients(wanted, seed)
        self.library.table(embedding_cases.table(wanted, seed), given, RATE)
        return {"checksum": embedding_cases.checksum(given)}
