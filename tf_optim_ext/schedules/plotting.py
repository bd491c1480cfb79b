"""Pictures of schedules."""

import numbers

import numpy as np
import tensorflow as tf

from tf_optim_ext import _keras, checks

MOST_POINTS = 1000


def new_axes(owner, ax):
    """The given axes, or those of a new figure.

    Raises:
        ImportError: matplotlib is missing.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            f"`{owner}` needs matplotlib: pip install matplotlib, or this package with its extra "
            "`demo`."
        ) from error
    return pyplot.subplots(layout="constrained")[1]


def plot(schedules, steps, ax=None, log=False):
    """Draws schedules over steps.

    Args:
        schedules: a schedule, of this package, of Keras or of your own; or a list of schedules, or
            a dict from labels to schedules.
        steps: integer >= 1, the number of steps, of which at most 1000 are drawn; or the steps
            themselves.
        ax: matplotlib's `Axes` to draw into; None: those of a new figure.
        log: whether the axis of the values is logarithmic.

    Returns:
        The `Axes`; their figure is `plot(...).figure`.

    Raises:
        ImportError: matplotlib is missing. It is in the extra `demo` of this package.
        TypeError: something is no `LearningRateSchedule`.
        ValueError: there is nothing to draw.
    """
    labelled = _labelled(schedules)
    steps = _steps(steps)
    ax = new_axes("plot", ax)
    for label, schedule in labelled.items():
        values = [float(schedule(tf.constant(step))) for step in steps]
        ax.plot(steps, values, label=label)
    ax.set_xlabel("step")
    ax.set_ylabel("learning rate")
    if log:
        ax.set_yscale("log")
    ax.grid(alpha=0.3)
    ax.legend()
    return ax


def _labelled(schedules):
    if not isinstance(schedules, dict):
        listed = [schedules] if callable(schedules) else list(schedules)
        names = [getattr(s, "name", None) or type(s).__name__ for s in listed]
        several = len(set(names)) < len(names)
        schedules = {f"{n} {i}" if several else n: s for i, (n, s) in enumerate(zip(names, listed))}
    if not schedules:
        raise ValueError("plot: `schedules` must have at least one schedule. Received none.")
    for schedule in schedules.values():
        if not _keras.is_schedule(schedule):
            raise TypeError(
                "plot: `schedules` must be a `LearningRateSchedule`, a list of them, or a dict "
                f"from labels to them. Received: {schedule!r}"
            )
    return schedules


def _steps(steps):
    if isinstance(steps, numbers.Number):
        count = checks.whole_number("plot", "steps", steps, 1)
        return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int))
    steps = np.asarray(list(steps))
    if steps.ndim != 1 or not steps.size or steps.dtype.kind not in "iuf":
        raise ValueError(f"plot: `steps` must be numbers. Received: {steps!r}")
    return steps
