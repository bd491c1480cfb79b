"""The learning rate range test."""

import contextlib
import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras, checks
from tf_optim_ext.engine.interrupts import DeferredInterrupts
from tf_optim_ext.schedules.plotting import new_axes

OWNER = "find_learning_rate"


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What `find_learning_rate` found: the loss of each batch, and its learning rate.

    Attributes:
        rates: float64 array of learning rates, each by the same factor above the one before.
        losses: float64 array of the loss of the batch that was trained on with each.
        smoothed_losses: float64 array of their exponential moving averages.
        diverged: whether the test ended before the highest rate, as the loss had grown too large.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed_losses: np.ndarray
    diverged: bool

    @property
    def suggestion(self):
        """A learning rate to train with: a tenth of the one with the lowest smoothed loss.

        At that one itself the loss is about to rise. The first tenth of the losses is left out:
        means of so few are noisy. If the test did not diverge, the lowest loss may be beyond its
        highest rate.
        """
        skipped = len(self.rates) // 10
        return float(self.rates[skipped + np.argmin(self.smoothed_losses[skipped:])]) / 10

    def plot(self, ax=None):
        """Draws the loss over the learning rate, with the suggestion.

        Args:
            ax: matplotlib's `Axes` to draw into; None: those of a new figure.

        Returns:
            The `Axes`.

        Raises:
            ImportError: matplotlib is missing. It is in the extra `demo` of this package.
        """
        ax = new_axes("RangeTest.plot", ax)
        ax.plot(self.rates, self.losses, ".", alpha=0.3, label="loss of the batch")
        ax.plot(self.rates, self.smoothed_losses, label="smoothed")
        ax.axvline(
            self.suggestion, color="black", ls="--", label=f"suggestion: {self.suggestion:.2g}"
        )
        low, high = self.losses.min(), self.smoothed_losses[: len(self.rates) // 2].max()
        margin = (high - low) / 4 or 1.0
        ax.set_ylim(low - margin, high + margin)  # what diverges would hide the rest
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.grid(alpha=0.3)
        ax.legend()
        return ax


def find_learning_rate(
    model,
    data,
    steps=100,
    lowest=1e-7,
    highest=10.0,
    smoothing=0.9,
    divergence=4.0,
    batch_size=None,
):
    """Trains a model for some batches with rising learning rates, and puts everything back.

    The learning rate rises exponentially from `lowest` to `highest`, whatever the optimizer has: a
    number, variable, callable or schedule. The test ends early when the smoothed loss exceeds
    `divergence` times its lowest value, or is not finite.

    Afterwards, and if the test is interrupted, model and optimizer are as they were to the last
    bit: weights, statistics of batch normalisation, states of random generators, slots, loss scale,
    `iterations`, learning rate, functions that were traced. A model or optimizer that was not built
    is built, with its initial weights; metrics are reset.

    The loss is that of each batch, before its update. With `steps_per_execution=k` in `compile`,
    each learning rate is for `k` batches.

    Args:
        model: a compiled Keras model. Its optimizer may be one of this package or of Keras, also in
            a `LossScaleOptimizer`.
        data: what `fit` takes as `x`: a `tf.data.Dataset`, `PyDataset` or generator of batches; or
            a tuple of arrays `(x, y)` or `(x, y, sample_weight)`. A dataset with fewer batches is
            used repeatedly.
        steps: integer >= 2, the number of learning rates.
        lowest: number > 0, the first one.
        highest: number > `lowest`, the last one.
        smoothing: number in [0, 1), the momentum of the moving average of the loss. With fastai's
            0.98, the average of 100 losses lags far behind.
        divergence: number > 1, see above.
        batch_size: integer, for arrays; by default that of `fit`.

    Returns:
        A `RangeTest`: `rates`, `losses`, `suggestion`, `plot()`.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: an argument is outside its range, the model is not compiled, it has several
            optimizers, or the loss was never finite.

    Reference:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, arXiv:1506.01186, section
        3.3; with the exponential rise, the smoothing and the end of fastai's `lr_find`: Howard and
        Gugger, *fastai: A Layered API for Deep Learning*, arXiv:2002.04688.
    """
    steps = checks.whole_number(OWNER, "steps", steps, 2)
    lowest = checks.number(OWNER, "lowest", lowest, "(0, inf)")
    highest = checks.number(OWNER, "highest", highest, f"({lowest}, inf)")
    smoothing = checks.number(OWNER, "smoothing", smoothing, "[0, 1)")
    divergence = checks.number(OWNER, "divergence", divergence, "(1, inf)")
    optimizer = _optimizer_with_rate(model)

    course = _Course(np.geomspace(lowest, highest, steps), smoothing, divergence)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_attributes_kept(model))
        _build(model, data)
        stack.enter_context(_state_kept(model))
        with model.distribute_strategy.scope():
            rate = getattr(_keras.generation_of(model), "Variable", tf.Variable)(
                lowest, dtype="float32", trainable=False, name="learning_rate"
            )
        stack.enter_context(_keras.rate_replaced(optimizer, rate))
        _fit(model, data, batch_size, rate, course)
    return course.result()


class _Course:
    """The rates to try, and what came of them."""

    def __init__(self, rates, smoothing, divergence):
        self._rates, self._smoothing, self._divergence = rates, smoothing, divergence
        self._losses, self._smoothed = [], []
        self._mean = 0.0
        self._diverged = False

    @property
    def count(self):
        return len(self._rates)

    @property
    def is_over(self):
        return self._diverged or len(self._losses) == len(self._rates)

    @property
    def next_rate(self):
        return float(self._rates[len(self._losses)])

    def add(self, loss):
        if not math.isfinite(loss):
            self._diverged = True
            return
        self._losses.append(loss)
        self._mean = self._smoothing * self._mean + (1 - self._smoothing) * loss
        smoothed = self._mean / (1 - self._smoothing ** len(self._losses))
        self._smoothed.append(smoothed)
        best = min(self._smoothed)
        self._diverged = smoothed > best + (self._divergence - 1) * abs(best)

    def result(self):
        if len(self._losses) < 2:
            raise ValueError(
                f"{OWNER}: there were {len(self._losses)} finite losses, where 2 are needed: does "
                "`data` have batches, and does the model train with `lowest`="
                f"{self._rates[0]:.3g}?"
            )
        rates = self._rates[: len(self._losses)]
        return RangeTest(
            rates, np.array(self._losses), np.array(self._smoothed), bool(self._diverged)
        )


def _optimizer_with_rate(model):
    keras = _keras.generation_of(model)
    if keras is None:
        raise TypeError(f"{OWNER}: `model` must be a Keras model. Received: {model!r}")
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"{OWNER}: the model has no optimizer: call `model.compile(...)` first.")
    found = _innermost(model.optimizer)
    if len(found) > 1:
        raise ValueError(
            f"{OWNER}: the model has {len(found)} optimizers, each with a learning rate of its "
            "own. Compile it with one for the test."
        )
    if not isinstance(found[0], keras.optimizers.Optimizer):
        raise ValueError(
            f"{OWNER}: the optimizer must be a `{keras.__name__}.optimizers.Optimizer`. "
            f"Received: {found[0]!r}"
        )
    return found[0]


def _innermost(optimizer):
    """The optimizers in a `LossScaleOptimizer` or `MultiOptimizer`, or the optimizer itself."""
    inner = getattr(optimizer, "inner_optimizer", None)
    within = getattr(optimizer, "optimizers", ()) if inner is None else [inner]
    return [each for other in within for each in _innermost(other)] or [optimizer]


def _fit(model, data, batch_size, rate, course):
    def on_begin(batch, logs=None):
        rate.assign(course.next_rate)
        model.reset_metrics()  # which would otherwise give the mean loss of the epoch

    def on_end(batch, logs=None):
        if "loss" not in (logs or {}):
            raise ValueError(
                f"{OWNER}: `train_step` of the model must return a dict with 'loss'. "
                f"Received: {sorted(logs or {})}"
            )
        course.add(float(logs["loss"]))
        model.stop_training = course.is_over

    keras = _keras.generation_of(model)
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=on_begin, on_train_batch_end=on_end
    )
    are_arrays = _are_arrays(data)
    given = dict(zip(("x", "y", "sample_weight"), data)) if are_arrays else {"x": data}
    if batch_size is not None:
        given["batch_size"] = batch_size
    if isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        given["steps_per_epoch"] = course.count  # Keras 2 asks for it
    model.fit(
        **given,
        shuffle=are_arrays,  # other data comes in batches, which Keras warns that it cannot shuffle
        epochs=course.count,
        verbose=0,
        callbacks=[callback],
    )


def _are_arrays(data):
    return isinstance(data, (tuple, list))


def _build(model, data):
    """Builds model and optimizer without running either."""
    with model.distribute_strategy.scope():
        if model.built:
            if not getattr(model.optimizer, "built", False):
                model.optimizer.build(model.trainable_variables)
            return
    batch = _first_batch(model, data)
    # Nobody but `train_step` knows what it does with a batch.
    step = tf.function(lambda: model.distribute_strategy.run(model.train_step, (batch,)))
    with model.distribute_strategy.scope():
        step.get_concrete_function()


def _first_batch(model, data):
    if _are_arrays(data):
        floatx = _keras.generation_of(model).backend.floatx()
        first = functools.partial(_first_row, floatx=floatx)
        return tuple(tf.nest.map_structure(first, each) for each in data)
    if isinstance(data, tf.data.Dataset):
        return next(iter(data))
    try:
        return tf.nest.map_structure(tf.convert_to_tensor, data[0])
    except (TypeError, KeyError, IndexError):
        raise ValueError(
            f"{OWNER}: the model is not built, which a {type(data).__name__} as `data` does not "
            "suffice for. Call the model on a batch first."
        ) from None


def _first_row(array, floatx):
    row = tf.convert_to_tensor(np.asarray(array[:1]))
    return tf.cast(row, floatx) if row.dtype.is_floating else row


@contextlib.contextmanager
def _attributes_kept(model):
    """Context that leaves functions, history and metrics of a model as if nothing was trained."""
    names = ("train_function", "train_tf_function", "history", "stop_training")
    before = {name: vars(model)[name] for name in names if name in vars(model)}
    model.train_function = None  # it was traced with another learning rate
    try:
        yield
    finally:
        for name in names:
            if name in before:
                setattr(model, name, before[name])
            elif name in vars(model):
                delattr(model, name)
        model.reset_metrics()


@contextlib.contextmanager
def _state_kept(model):
    """Context that leaves all variables of a model and its optimizer as they were."""
    local = model.distribute_strategy.experimental_local_results
    variables = [each for variable in _variables_of(model) for each in local(variable)]
    values = [tf.identity(variable) for variable in variables]
    # Of schedule-free optimizers: weights that the variables do not hold at the moment.
    untracked = [vars(o._untracked) for o in _ours(model.optimizer)]
    attributes = [dict(each) for each in untracked]
    try:
        yield
    finally:
        with DeferredInterrupts():
            for variable, value in zip(variables, values):
                variable.assign(value)
            for each, before in zip(untracked, attributes):
                each.update(before)


def _ours(optimizer):
    return [each for each in _innermost(optimizer) if hasattr(each, "_untracked")]


def _variables_of(model):
    found = [*model.variables, *model.optimizer.variables, *_keras.hidden_generators(model)]
    for root in (model, model.optimizer):  # loss scales, variables of users
        found += tf.train.TrackableView(root).descendants()
    found = [_keras.tensorflow_variable(each) for each in found]
    return list({v.ref(): v for v in found if isinstance(v, tf.Variable)}.values())
