"""Every optimizer trains a real network: that of `examples/digits.py`, on handwritten digits.

The other tests compare steps with formulas. Here the question is whether an optimizer, with a
learning rate about where its docstring says to start, is of any use.
"""

import contextlib
import functools
import importlib
import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_optim_ext
from tf_optim_ext import optimizers

for _name in ("matplotlib", "rich", "sklearn"):
    pytest.importorskip(_name, reason="examples/digits.py needs the extra `demo`")

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
BATCH, EPOCHS, STEPS = 64, 10, 220
HESSIAN_EVERY = 10
# A network that has learned nothing is right about one of ten digits; each run of the table ends
# at 0.93 or more, most of them at 0.95 to 0.98.
LOWEST_ACCURACY = 0.9
CHANCE = 0.2

# What each optimizer is trained with: whatever its docstring says to start with, unless a comment
# says why not. 220 steps are few, so that of a range it is the upper end.
ARGUMENTS = {
    "SGD": {"learning_rate": 0.1},
    "SGDW": {"learning_rate": 0.1, "weight_decay": 1e-4},
    "QHM": {"learning_rate": 1.0},
    # Every weight moves by exactly the learning rate: with the 1e-4 for long trainings, by 0.02
    # at most within these few steps.
    "SignSGD": {"learning_rate": 3e-4},
    "Signum": {"learning_rate": 3e-4},
    "Lion": {"learning_rate": 3e-4},
    "Tiger": {"learning_rate": 3e-4},
    "Adam": {"learning_rate": 1e-3},
    "AdamW": {"learning_rate": 1e-3},
    "LazyAdam": {"learning_rate": 1e-3},
    "Nadam": {"learning_rate": 1e-3},
    "NAdamW": {"learning_rate": 1e-3},
    "Adamax": {"learning_rate": 2e-3},
    "AdamaxW": {"learning_rate": 2e-3},
    "RMSprop": {"learning_rate": 1e-3},
    "Adagrad": {"learning_rate": 0.1},
    "Adadelta": {"learning_rate": 1.0},
    "ProximalAdagrad": {"learning_rate": 0.1},
    # With an accumulator that starts above 0, the first step takes the initial weights to almost
    # 0, where the layers of a network have no gradient. Linear models do not mind.
    "Ftrl": {"learning_rate": 0.05, "initial_accumulator_value": 0.0},
    "AdaBelief": {"learning_rate": 1e-3},
    "RectifiedAdam": {"learning_rate": 1e-3},
    "Yogi": {"learning_rate": 0.01},
    "AdaBound": {"learning_rate": 1e-3, "final_learning_rate": 0.1},
    "AMSBound": {"learning_rate": 1e-3, "final_learning_rate": 0.1},
    "Adan": {"learning_rate": 1e-3},
    "ADOPT": {"learning_rate": 1e-3},
    "AdEMAMix": {"learning_rate": 1e-3},
    "Grams": {"learning_rate": 1e-3},
    "LaProp": {"learning_rate": 4e-4},
    "MADGRAD": {"learning_rate": 0.01},
    "MARS": {"learning_rate": 3e-3},
    "QHAdam": {"learning_rate": 1e-3},
    "Sophia": {"learning_rate": 2e-4},
    "StableAdamW": {"learning_rate": 1e-3},
    # With 1e-3, no variable can move by more than 22 % of its norm within these few steps.
    "Lamb": {"learning_rate": 0.01},
    "LAMB": {"learning_rate": 0.01},
    "LARS": {"learning_rate": 1.0},
    "NovoGrad": {"learning_rate": 0.01},
    # The norms of the initial kernels are 4 to 13, and those of trained ones are larger: the ball
    # must not be smaller. The weights shrink by 1 - 0.999 of themselves at each step.
    "ConditionalGradient": {"learning_rate": 0.999, "lambda_": 100.0},
    "COCOB": {"learning_rate": 1.0},
    "DoG": {"learning_rate": 1.0, "use_ema": True, "ema_momentum": 0.9},
    "LDoG": {"learning_rate": 1.0, "use_ema": True, "ema_momentum": 0.9},
    "DAdaptAdam": {"learning_rate": 1.0},
    # With a constant 1, the estimate of this network's learning rate grows without end, as it does
    # with the authors' code. A rate that is lower and falls stops it in time.
    "DAdaptLion": {
        "learning_rate": keras.optimizers.schedules.PolynomialDecay(0.3, STEPS, 0.0),
    },
    "DAdaptSGD": {"learning_rate": 1.0},
    "Prodigy": {"learning_rate": 1.0},
    "ScheduleFreeAdamW": {"learning_rate": 2.5e-3},
    "ScheduleFreeRAdam": {"learning_rate": 2.5e-3},
    "ScheduleFreeSGD": {"learning_rate": 1.0},
}

# One of each kind; the others take a minute.
SHORT = ("SGD", "AdamW", "Lamb", "Lion", "COCOB", "Prodigy", "ScheduleFreeAdamW", "Sophia")


@functools.cache
def example(name="digits"):
    """A module of the examples, which find each other in their folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        return importlib.import_module(name)


@functools.cache
def data():
    """Images and labels of all training steps, in order, and those of the test."""
    (images, labels), test = example().load_data(seed=0)
    numbers, per_epoch = np.random.default_rng(0), STEPS // EPOCHS
    orders = [numbers.permutation(len(images))[: per_epoch * BATCH] for _ in range(EPOCHS)]
    order = np.concatenate(orders).reshape(STEPS, BATCH)
    return tf.constant(images[order]), tf.constant(labels[order], tf.int64), test


def mean_loss(labels, logits):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def train(model, optimizer):
    """Trains in one call of a function, all steps of which are one loop of TensorFlow's."""
    images, labels, _ = data()
    variables = model.trainable_variables
    optimizer.build(variables)

    def gradients(x, y=None):
        """Of the loss of these labels, or of labels that are drawn from the predictions."""
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            if y is None:
                y = tf.random.categorical(tf.stop_gradient(logits), 1)[:, 0]
            loss = mean_loss(y, logits)
        return tape.gradient(loss, variables)

    def update_hessian(x):
        """The estimate of Gauss, Newton and Bartlett."""
        optimizer.update_hessian([g * g for g in gradients(x)], scale=BATCH)

    @tf.function
    def loop():
        for step in tf.range(STEPS):
            if isinstance(optimizer, tf_optim_ext.Sophia) and step % HESSIAN_EVERY == 0:
                update_hessian(images[step])
            optimizer.apply(gradients(images[step], labels[step]), variables)

    loop()


def accuracy_of(optimizer):
    """What the network reaches on images that it was not trained with."""
    model = example().build_model(seed=0)  # also seeds the random numbers of `train`
    train(model, optimizer)
    assert int(optimizer.iterations) == STEPS
    if optimizer.use_ema:
        optimizer.finalize_variable_values(model.trainable_variables)
    averaged = getattr(optimizer, "averaged_weights", contextlib.nullcontext)
    with averaged():
        return example().accuracy(model, data()[-1])


def test_every_optimizer_has_arguments():
    assert set(ARGUMENTS) == {cls.__name__ for cls in optimizers.ALL}


@pytest.mark.parametrize(
    "cls",
    [
        cls if cls.__name__ in SHORT else pytest.param(cls, marks=pytest.mark.long)
        for cls in optimizers.ALL
    ],
    ids=lambda cls: cls.__name__,
)
def test_it_learns_the_digits(cls):
    assert cls.__name__ in ARGUMENTS, f"tell {pathlib.Path(__file__).name} how to train with it"
    assert accuracy_of(cls(**ARGUMENTS[cls.__name__])) >= LOWEST_ACCURACY


def test_nothing_is_learned_without_a_learning_rate():
    untrained = example().accuracy(example().build_model(seed=0), data()[-1])
    assert untrained < CHANCE
    assert accuracy_of(tf_optim_ext.SGD(0.0)) == untrained


def test_times_are_of_interleaved_repeats():
    calls = []
    ms = example("timing").medians({n: functools.partial(calls.append, n) for n in "ab"}, 3)
    assert 0 < ms["a"] < 1 and 0 < ms["b"] < 1
    assert sum(x != y for x, y in itertools.pairwise(calls)) >= 3


def test_speed_is_measured_beside_keras():
    rows = example("speed").two_towers(repeats=1, users=50, items=40, width=4, batch=8)
    assert [row.timed.split('"')[1] for row in rows] == ["exact", "lazy"]
    assert all(row.ratio == row.keras_ms / row.ours_ms > 0 for row in rows)
    assert all(row.route.startswith(("native", "tensorflow")) for row in rows)
    assert len(list(example("speed").resnet50())) == 161
