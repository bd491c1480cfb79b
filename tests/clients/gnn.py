"""Clients of TensorFlow GNN; see `training.py`."""

import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_gnn as tfgnn
from clients import training
from common import arrays, assert_close, route_of_dense
from tensorflow_gnn import runner
from tensorflow_gnn.models import gat_v2, vanilla_mpnn

import tf_optim_ext

GRAPHS, BATCH, NODES, EDGES, KINDS = 32, 8, 5, 8, 7

rng = np.random.default_rng(0)
KIND = rng.integers(0, KINDS, (GRAPHS, NODES)).astype("int32")
SOURCE, TARGET = rng.integers(0, NODES, (2, GRAPHS, EDGES)).astype("int32")
LABEL = (KIND.sum(axis=1) > KINDS * NODES // 2).astype("int32")


def graph(kind, source, target, label):
    return tfgnn.GraphTensor.from_pieces(
        context=tfgnn.Context.from_fields(features={"label": [label]}),
        node_sets={"atoms": tfgnn.NodeSet.from_fields(sizes=[NODES], features={"kind": kind})},
        edge_sets={
            "bonds": tfgnn.EdgeSet.from_fields(
                sizes=[EDGES],
                adjacency=tfgnn.Adjacency.from_indices(("atoms", source), ("atoms", target)),
            )
        },
    )


def graphs():
    return tf.data.Dataset.from_tensor_slices((KIND, SOURCE, TARGET, LABEL)).map(graph)


def network(spec):
    """A model from graphs to graphs with a hidden state for each atom."""
    table = tf.keras.layers.Embedding(KINDS, 8)
    options = {"receiver_tag": tfgnn.TARGET, "l2_regularization": 1e-3}
    inputs = tf.keras.Input(type_spec=spec)
    hidden = tfgnn.keras.layers.MapFeatures(
        node_sets_fn=lambda atoms, *, node_set_name: table(atoms["kind"])
    )(inputs)
    hidden = vanilla_mpnn.VanillaMPNNGraphUpdate(
        units=8, message_dim=8, dropout_rate=0.0, **options
    )(hidden)
    hidden = gat_v2.GATv2MPNNGraphUpdate(units=8, message_dim=8, num_heads=2, **options)(hidden)
    return tf.keras.Model(inputs, hidden)


def labelled(batch):
    batch = batch.merge_batch_to_components()
    return batch, batch.context["label"]


def classifier():
    data = graphs().batch(BATCH, drop_remainder=True).map(labelled)
    spec = data.element_spec[0]

    def make():
        inputs = tf.keras.Input(type_spec=spec)
        pooled = tfgnn.keras.layers.Pool(tfgnn.CONTEXT, "mean", node_set_name="atoms")(
            network(spec)(inputs)
        )
        return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(pooled))

    loss = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    return training.Client(make, data, {"loss": loss})


class Data(runner.DatasetProvider):
    def get_dataset(self, context):
        return graphs()


class Interrupted(Exception):
    pass


class Interruption(tf.keras.callbacks.Callback):
    """Ends the process, as it were, after two epochs."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Interrupted


class Runner:
    """`runner.run`, which saves the optimizer in the middle of training, and exports the model."""

    def run(self, make, folder, *callbacks, seed=1):
        tf.keras.utils.set_random_seed(seed)
        trainer = runner.KerasTrainer(
            tf.distribute.get_strategy(),
            model_dir=folder,
            callbacks=callbacks,
            verbose=0,
            summarize_every_n_steps="never",
        )
        return runner.run(
            train_ds_provider=Data(),
            model_fn=network,
            optimizer_fn=make,
            trainer=trainer,
            task=runner.GraphBinaryClassification("atoms", label_fn=runner.ContextLabelFn("label")),
            gtspec=graphs().element_spec,
            global_batch_size=BATCH,
            drop_remainder=True,
            epochs=4,
        ).trained_model

    def resumes(self, make):
        """Asserts that a training that was interrupted ends as one that was not."""
        with tempfile.TemporaryDirectory() as folder:
            straight = self.run(make, folder)
        assert straight.optimizer.iterations.numpy() == 4 * GRAPHS // BATCH
        assert str(straight.optimizer.route).startswith(route_of_dense())
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.run(make, folder, Interruption())
                raise AssertionError("was not interrupted")
            except Interrupted:
                pass
            model = self.run(make, folder, seed=2)
        assert model.optimizer is not straight.optimizer
        assert_close(
            [*model.variables, *model.optimizer.variables],
            [*straight.variables, *straight.optimizer.variables],
            **training.TOLERANCE,
        )

    def is_keras_own(self, name):
        """Asserts that an optimizer does what that of Keras does."""
        weights = []
        for module in (tf.keras.optimizers, tf_optim_ext):
            with tempfile.TemporaryDirectory() as folder:
                optimizer = getattr(module, name)(**training.TWINS[name])
                weights.append(arrays(self.run(lambda o=optimizer: o, folder).variables))
        assert_close(weights[1], weights[0], **training.TOLERANCE)

    checks = training.Client.checks


if __name__ == "__main__":
    training.main({"classifier": classifier, "runner": Runner})
