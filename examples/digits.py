"""Shows what tf_optim_ext does, and where it saves time, in one command.

    pip install '.[demo]'
    python examples/digits.py

First, it trains the same network from the same initial weights on scikit-learn's handwritten digits

* with `model.compile` / `model.fit` and our AdamW,
* in a custom training loop (`tf.GradientTape` inside a `tf.function`) and our AdamW,
* with `fit` and the AdamW that comes with Keras, to compare,

saves a `.keras` file in the middle of training and resumes from it, exports a SavedModel and serves
it where tf_optim_ext was never imported. Then it times steps beside Keras' (`speed.py`). It prints
two tables, writes one picture (`--out`) and exits with an error if any of this did not work.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# TensorFlow reads this when it is imported; its start-up notes would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib
import numpy as np
import speed
import tensorflow as tf
from absl import app, flags, logging
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tf_optim_ext

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 30, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("batch_size", 64, "Images per step.", lower_bound=1, upper_bound=1024)
flags.DEFINE_float("learning_rate", 2e-3, "Learning rate of every run.", lower_bound=0.0)
flags.DEFINE_float("weight_decay", 1e-2, "Decoupled weight decay of every run.", lower_bound=0.0)
flags.DEFINE_integer("seed", 0, "Seed of the weights and of the order of the images.")
flags.DEFINE_bool("quick", False, "A few epochs only, to see that everything works.")
flags.DEFINE_string("out", "digits.png", "Where to write the picture.")

WANTED_ACCURACY = 0.95
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
Arrays = tuple[np.ndarray, np.ndarray]
Tick = Callable[[], None]  # called after every epoch, moves the progress bar


@dataclass
class Run:
    """What one way of training produced."""

    name: str
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def route(self) -> str:
        """Where the optimizer ran; every optimizer of tf_optim_ext can say it, Keras' cannot."""
        return str(getattr(self.optimizer, "route", "Keras"))


def load_data(seed: int) -> tuple[Arrays, Arrays]:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32")
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return (parts[0], parts[2]), (parts[1], parts[3])


def batches(data: Arrays, seed: int) -> tf.data.Dataset:
    """Batches in an order that depends on the seed alone, so that runs can be compared."""
    order = np.random.default_rng(seed).permutation(len(data[0]))
    dataset = tf.data.Dataset.from_tensor_slices((data[0][order], data[1][order]))
    return dataset.batch(FLAGS.batch_size, drop_remainder=True).prefetch(1)


def build_model(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense
    layers = [dense(256, activation="relu"), dense(128, activation="relu"), dense(10)]
    return keras.Sequential([keras.layers.Input((64,)), *layers])


def train_with_fit(run: Run, train: Arrays, test: Arrays, tick: Tick) -> None:
    """The usual way. Nothing but the optimizer's name differs from plain Keras."""
    run.model.compile(optimizer=run.optimizer, loss=LOSS, metrics=["accuracy"])
    progress = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: tick())
    settings = {"epochs": FLAGS.epochs, "validation_data": test, "callbacks": [progress]}
    # A dataset keeps its own order: asking Keras to shuffle it would only earn a warning.
    log = run.model.fit(batches(train, FLAGS.seed), shuffle=False, verbose=0, **settings).history
    run.losses, run.accuracies = log["loss"], log["val_accuracy"]


def train_in_custom_loop(run: Run, train: Arrays, test: Arrays, tick: Tick) -> None:
    """A custom loop: build the optimizer for the variables, then hand it gradients."""
    run.optimizer.build(run.model.trainable_variables)

    @tf.function
    def train_step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = LOSS(y, run.model(x, training=True))
        gradients = tape.gradient(loss, run.model.trainable_variables)
        run.optimizer.apply_gradients(zip(gradients, run.model.trainable_variables, strict=True))
        return loss

    dataset = batches(train, FLAGS.seed)
    for _ in range(FLAGS.epochs):
        run.losses.append(float(np.mean([train_step(x, y) for x, y in dataset])))
        run.accuracies.append(accuracy(run.model, test))
        tick()


def accuracy(model: keras.Model, data: Arrays) -> float:
    logits = model(data[0], training=False)
    return float(np.mean(np.argmax(logits, axis=-1) == data[1]))


def check(ok: bool, message: str) -> None:
    if not ok:
        raise SystemExit(f"digits: check failed: {message}")


def same(left: list, right: list, tolerance: float = 0.0) -> bool:
    pairs = zip(left, right, strict=True)
    return all(np.allclose(np.asarray(a), np.asarray(b), tolerance, tolerance) for a, b in pairs)


def check_reload(run: Run, train: Arrays, folder: Path) -> str:
    """A `.keras` file holds the optimizer too: training goes on as if nothing had happened."""
    run.model.save(folder / "digits.keras")
    reloaded = keras.models.load_model(folder / "digits.keras")
    before, after = run.model.optimizer, reloaded.optimizer
    check(type(after) is type(before), f"reloaded a {type(after)}, saved a {type(before)}")
    steps = int(before.iterations)
    check(int(after.iterations) == steps, f"reloaded at step {int(after.iterations)}, not {steps}")
    # `variables` is the step counter, the learning rate and two slots (momenta) per weight.
    check(len(before.variables) > 2 + len(run.model.trainable_variables), "no slots to compare")
    check(same(before.variables, after.variables), "the optimizer's slots changed on reload")
    for model in (run.model, reloaded):
        model.fit(batches(train, FLAGS.seed + 1), epochs=1, shuffle=False, verbose=0)
    check(int(after.iterations) > steps, "the reloaded model did not go on training")
    equal = same(run.model.weights, reloaded.weights, tolerance=1e-5)
    check(equal, "training on from the file and without it gave different weights")
    return f"saved after {steps} steps, reloaded, trained to {int(after.iterations)}: same weights"


SERVE = """
import sys
import numpy as np
import tensorflow as tf
folder, images, predictions = sys.argv[1:]
served = tf.saved_model.load(folder)
np.save(predictions, served.serve(tf.constant(np.load(images))).numpy())
assert "tf_optim_ext" not in sys.modules
"""


def check_export(run: Run, test: Arrays, folder: Path) -> str:
    """A SavedModel needs TensorFlow and nothing else, whatever trained it."""
    run.model.export(folder / "served", verbose=False)
    np.save(folder / "images.npy", test[0])
    files = [str(folder / name) for name in ("served", "images.npy", "predictions.npy")]
    command = [sys.executable, "-c", SERVE, *files]
    fresh = subprocess.run(command, capture_output=True, text=True, check=False)
    check(fresh.returncode == 0, f"a fresh process could not serve the model:\n{fresh.stderr}")
    served, expected = np.load(files[-1]), np.asarray(run.model(test[0], training=False))
    check(np.allclose(served, expected, 1e-5, 1e-5), "the exported model predicts differently")
    return f"exported, served without tf_optim_ext: same {len(served)} predictions"


def print_training(console: Console, runs: list[Run]) -> None:
    table = Table(title=f"Digits: AdamW, {FLAGS.epochs} epochs, batch {FLAGS.batch_size}")
    table.add_column("run", no_wrap=True)
    table.add_column("test accuracy", justify="right")
    table.add_column("route")
    for run in runs:
        table.add_row(run.name, f"{100 * run.accuracies[-1]:.1f} %", run.route)
    console.print(table)


def print_speed(console: Console, rows: list[speed.Row]) -> None:
    title = "Milliseconds of a step, medians: Adam(W) of Keras and of tf_optim_ext"
    table = Table(title=title, box=SIMPLE)
    table.add_column("what is timed", no_wrap=True)
    for heading in ("Keras", "ours", "faster"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("our route")
    for row in rows:
        times = [f"{ms:.1f}" for ms in (row.keras_ms, row.ours_ms)]
        table.add_row(row.timed, *times, f"{row.ratio:.1f}x", row.route)
    console.print(table)
    console.print(
        "An optimizer can save its own share of a step and no more. Models with large\n"
        "embeddings gain most. Compute-bound models and tiny ones, like the digits\n"
        "network, gain little or nothing: the rest of the step takes the time.\n"
    )


def draw(runs: list[Run], rows: list[speed.Row], path: str) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    # The curves nearly coincide, so the earlier ones are drawn wider to stay visible below.
    for run, style, width in zip(runs, ("-", "-", "--"), (5.0, 2.5, 1.2), strict=True):
        epochs = range(1, len(run.losses) + 1)
        left.plot(epochs, run.losses, style, lw=width, label=run.name)
        middle.plot(epochs, [100 * a for a in run.accuracies], style, lw=width, label=run.name)
    left.set(xlabel="epoch", ylabel="training loss (log scale)", yscale="log")
    middle.set(xlabel="epoch", ylabel="test accuracy (%)")
    for axes in (left, middle):
        axes.grid(alpha=0.3)
        axes.legend()
        axes.set_title("AdamW on handwritten digits")
    bars = right.barh([row.timed for row in rows], [row.ratio for row in rows])
    right.bar_label(bars, [f" {row.ratio:.1f}x" for row in rows])
    right.axvline(1, color="black", lw=0.8)
    right.set(xscale="log", xlabel="times faster than Keras (log scale)", title="Time of a step")
    right.set_xlim(0.5, 3 * max(row.ratio for row in rows))
    right.invert_yaxis()
    figure.savefig(path, dpi=130)


def time_steps(model: keras.Model, train: Arrays) -> Iterator[list[speed.Row]]:
    """The parts of the second table, one by one."""
    repeats = 5 if FLAGS.quick else 15
    yield speed.small_network(model, LOSS, list(batches(train, FLAGS.seed)), repeats)
    yield speed.two_towers(repeats)
    yield speed.many_variables(3 if FLAGS.quick else 7)


def make_runs() -> list[tuple[Run, Callable[..., None]]]:
    ours, theirs = tf_optim_ext.AdamW, keras.optimizers.AdamW
    ways = [
        ("tf_optim_ext, fit", ours, train_with_fit),
        ("tf_optim_ext, custom loop", ours, train_in_custom_loop),
        ("Keras, fit", theirs, train_with_fit),
    ]
    settings = {"learning_rate": FLAGS.learning_rate, "weight_decay": FLAGS.weight_decay}
    return [(Run(name, build_model(FLAGS.seed), kind(**settings)), way) for name, kind, way in ways]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if FLAGS.quick and not FLAGS["epochs"].present:
        FLAGS.epochs = 12
    console = Console()
    train, test = load_data(FLAGS.seed)
    runs = make_runs()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for run, way in runs:
            bar = progress.add_task(run.name, total=FLAGS.epochs)
            way(run, train, test, lambda bar=bar: progress.advance(bar))
        runs = [run for run, _ in runs]
        bar, rows = progress.add_task("time of a step", total=3), []
        for part in time_steps(runs[0].model, train):
            rows += part
            progress.advance(bar)
    print_training(console, runs)
    print_speed(console, rows)
    draw(runs, rows, FLAGS.out)

    for run in runs if FLAGS.epochs >= 10 else []:
        reached = run.accuracies[-1]
        check(reached >= WANTED_ACCURACY, f"{run.name}: {reached:.3f} < {WANTED_ACCURACY}")
    with tempfile.TemporaryDirectory() as folder:
        console.print(check_reload(runs[0], train, Path(folder)))
        console.print(check_export(runs[0], test, Path(folder)))
    console.print(f"picture: {FLAGS.out}")


if __name__ == "__main__":
    app.run(main)
