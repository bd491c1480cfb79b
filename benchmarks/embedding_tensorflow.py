"""Adam of this package, of Keras and of tf_keras: `-m benchmarks.embedding_tensorflow`."""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks import embedding_cases, embedding_server
from benchmarks.embedding_rows import split
from benchmarks.peers import of_tensorflow, server

OURS: dict[str, dict[str, Any]] = {
    "lazy": {"sparse": "lazy"},
    "exact": {"sparse": "exact"},
    "catch_up": {"sparse": "catch_up"},
    "row_wise": {"sparse": "lazy", "row_wise": True},
}


class Tables(of_tensorflow.Ours):
    """One table for all rows; those of a kind share an optimizer and its slots."""

    def table(
        self, weights: np.ndarray, given: Sequence[embedding_cases.Gradient], rate: float
    ) -> None:
        with tf.device(self.device):
            self.variables = [keras.Variable(weights, dtype="float32")]
            self.gradients = [(tf.constant(ids), tf.constant(values)) for ids, values in given]
        self.optimizers: dict[str, Any] = {}
        self.rate = rate

    def forget(self) -> None:
        super().forget()
        self.optimizers = {}

    def make(self, mode: str, optimizer: str, traces: int) -> of_tensorflow.TensorFlowStep:
        kind, how = split(mode)
        if kind not in self.optimizers:
            self.optimizers[kind] = self._adam(kind)
        adam, (table,) = self.optimizers[kind], self.variables
        shape = tf.constant(table.shape, tf.int64)
        variable = table.value if kind == "tf_keras" else table
        if kind != "tf_keras":
            with tf.device(self.device):
                adam.build([table])

        def apply(ids: tf.Tensor, values: tf.Tensor) -> None:
            adam.apply_gradients([(tf.IndexedSlices(values, ids, shape), variable)])

        step, turns = tf.function(apply) if how == "function" else apply, self._turns()
        # The gradients are arguments of the function: it is traced by its first call, not here.
        return self._step(adam, optimizer, lambda: step(*next(turns)), "eager", 0)

    def _turns(self) -> itertools.cycle:
        return itertools.cycle(self.gradients)

    def _adam(self, kind: str) -> Any:
        numbers = (
            self.rate,
            embedding_cases.BETA_1,
            embedding_cases.BETA_2,
            embedding_cases.EPSILON,
        )
        if kind == "keras":
            return keras.optimizers.Adam(*numbers)
        if kind == "tf_keras":
            import tf_keras

            return tf_keras.optimizers.legacy.Adam(*numbers)
        import tf_optim_ext

        return tf_optim_ext.Adam(*numbers, **OURS[kind])


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(embedding_server.Server(Tables()))
