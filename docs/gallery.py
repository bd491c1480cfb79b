"""Draws the paths of every optimizer on functions of two numbers, into docs/gallery/.

    python docs/gallery.py                     # all functions, some minutes
    python docs/gallery.py rosenbrock          # some of them

Every optimizer starts at the same point and takes the same number of steps, once with each
learning rate of the same grid. Its panel shows the rate with the lowest mean loss at the end.
Nothing is left to chance: noise comes from a seed, and is the same for all.
"""

import io
import os
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "gallery"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(ROOT))  # The paths are those of this tree, whatever is installed.

import matplotlib as mpl  # noqa: E402

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from PIL import Image  # noqa: E402

import tf_optim_ext  # noqa: E402
from tf_optim_ext import optimizers  # noqa: E402
from tf_optim_ext.base.schedule_free import ScheduleFreeOptimizer  # noqa: E402

STEPS = 200
JUDGED = 20  # last steps, whose mean loss chooses the rate
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
MARGIN = 0.5  # part of a panel's width by which a path may leave the panel
HESSIAN_EVERY = 10
SEED = 0
COLUMNS, COLORS = 7, 64
# What the defaults do not fit: a ball that holds the minima, an accumulator that does not begin
# with a leap to the origin, an argument without a default.
ARGUMENTS = {
    "ConditionalGradient": {"lambda_": 5.0},
    "Ftrl": {"initial_accumulator_value": 0.0},
    "SGDW": {"weight_decay": 1e-4},
}


@dataclass(frozen=True)
class Function:
    """A function of two numbers, which may be arrays.

    Attributes:
        title: what the picture calls it.
        value: the function.
        gradient: its two partial derivatives.
        start: where the paths begin.
        minimum: where they should end.
        window: left, right, bottom and top of a panel.
        noise: standard deviation of what is added to each derivative.
    """

    title: str
    value: Callable
    gradient: Callable
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]
    noise: float = 0.0

    def holds(self, point: np.ndarray) -> bool:
        """Whether a point is in the window or near it; not if it is no number."""
        left, right, bottom, top = self.window
        x, y = MARGIN * (right - left), MARGIN * (top - bottom)
        low, high = (left - x, bottom - y), (right + x, top + y)
        return bool(np.all(np.greater(point, low) & np.less(point, high)))


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(x, y):
    return -2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)


BEALE = ((1.5, 1), (2.25, 2), (2.625, 3))


def beale(x, y):
    return sum((c - x + x * y**k) ** 2 for c, k in BEALE)


def beale_gradient(x, y):
    residuals = [(c - x + x * y**k, k) for c, k in BEALE]
    return (
        sum(2 * r * (y**k - 1) for r, k in residuals),
        sum(2 * r * x * k * y ** (k - 1) for r, k in residuals),
    )


RAVINE = np.array([[5.0, 4.5], [4.5, 5.0]])  # curvatures 9.5 and 0.5, along the diagonals
RAVINE_MINIMUM = (1.0, -0.5)


def ravine(x, y):
    u, v = x - RAVINE_MINIMUM[0], y - RAVINE_MINIMUM[1]
    return (RAVINE[0, 0] * u * u + 2 * RAVINE[0, 1] * u * v + RAVINE[1, 1] * v * v) / 2


def ravine_gradient(x, y):
    return tuple(RAVINE @ (x - RAVINE_MINIMUM[0], y - RAVINE_MINIMUM[1]))


FUNCTIONS = {
    "rosenbrock": Function(
        "Rosenbrock's valley", rosenbrock, rosenbrock_gradient, (-1.4, 2.2), (1, 1), (-2, 2, -1, 3)
    ),
    "beale": Function(
        "Beale's function", beale, beale_gradient, (0.7, 1.7), (3, 0.5), (-0.5, 4.5, -1.5, 2.5)
    ),
    "ravine": Function(
        "A ravine with noisy gradients", ravine, ravine_gradient, (-1.5, -0.5), RAVINE_MINIMUM,
        (-3, 3, -3, 3), 1.0,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What an optimizer did: the points of its path, the averages where it has them, the rate."""

    path: np.ndarray
    averages: np.ndarray | None
    rate: float
    loss: float


def make(name: str, rate: float):
    """An optimizer with all its defaults but the rate."""
    # Its learning rate is what is kept of the weights.
    argument = 1 - rate if name == "ConditionalGradient" else rate
    return getattr(tf_optim_ext, name)(learning_rate=argument, **ARGUMENTS.get(name, {}))


def hutchinson(function: Function, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """An estimate of the Hessian's diagonal, by differences of the gradient."""
    step = 1e-4 * direction
    after, before = function.gradient(*(point + step)), function.gradient(*(point - step))
    return direction * (np.subtract(after, before) / 2e-4)


def run(name: str, function: Function, rate: float, steps: int = STEPS) -> Run:
    """Takes steps until there are enough, or the path leaves; its loss is infinite then."""
    optimizer, numbers = make(name, rate), np.random.default_rng(SEED)
    # A matrix: some optimizers treat vectors as biases.
    variable = tf.Variable([function.start], dtype=tf.float32)
    optimizer.build([variable])
    path, averages = [np.array(function.start)], [np.array(function.start)]
    for step in range(steps):
        noise, direction = numbers.standard_normal((2, 2))
        if name == "Sophia" and step % HESSIAN_EVERY == 0:
            estimate = hutchinson(function, path[-1], direction)
            optimizer.update_hessian([tf.constant([estimate], tf.float32)])
        gradient = np.array(function.gradient(*path[-1])) + function.noise * noise
        optimizer.apply([tf.constant([gradient], tf.float32)], [variable])
        path.append(variable.numpy()[0].astype(np.float64))
        if isinstance(optimizer, ScheduleFreeOptimizer):
            with optimizer.averaged_weights():
                averages.append(variable.numpy()[0].astype(np.float64))
        if not function.holds(path[-1]):
            return Run(np.array(path[:-1]), None, rate, np.inf)
    averaged = np.array(averages) if len(averages) > 1 else None
    judged = np.array(path) if averaged is None else averaged
    loss = float(np.mean(function.value(*judged[-JUDGED:].T)))
    return Run(np.array(path), averaged, rate, loss)


def best(name: str, function: Function, steps: int = STEPS, rates: tuple = RATES) -> Run:
    """The run with the lowest loss at the end, of all rates of the grid that the optimizer takes.

    Raises:
        ValueError: the path leaves with all of them.
    """
    if name == "ConditionalGradient":
        rates = tuple(rate for rate in rates if rate < 1)
    best_run = min((run(name, function, rate, steps) for rate in rates), key=lambda r: r.loss)
    if not np.isfinite(best_run.loss):
        raise ValueError(
            f"{name} leaves the panel on {function.title} with every rate of {rates}: "
            "add lower ones."
        )
    return best_run


def panel(axis, name: str, function: Function, best_run: Run) -> None:
    left, right, bottom, top = function.window
    x, y = np.meshgrid(np.linspace(left, right, 160), np.linspace(bottom, top, 160))
    values = np.log10(function.value(x, y) + 1e-3)
    axis.contour(x, y, values, levels=np.arange(-2, 4.5, 0.6), colors="0.75", linewidths=0.5)
    averaged = best_run.averages is not None
    axis.plot(*best_run.path.T, color="#e8a27c" if averaged else "#c0392b", linewidth=0.9)
    shown = best_run.averages if averaged else best_run.path
    if averaged:
        axis.plot(*shown.T, color="#c0392b", linewidth=1.3)
    axis.plot(*function.minimum, "*", color="#1f618d", markersize=8)
    axis.plot(*function.start, "o", color="white", markeredgecolor="black", markersize=4)
    axis.plot(*shown[-1], "o", color="black", markersize=3.5)
    axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    rate = f"1 - {best_run.rate:g}" if name == "ConditionalGradient" else f"{best_run.rate:g}"
    axis.set_title(f"{name}\nrate {rate}, loss {best_run.loss:.2g}", fontsize=8, pad=3)


def draw(function: Function, path: pathlib.Path) -> None:
    """A panel for every optimizer."""
    names = [cls.__name__ for cls in optimizers.ALL]
    rows = -(-len(names) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(1.9 * COLUMNS, 2.2 * rows + 0.5))
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        panel(axis, name, function, best(name, function))
    title = f"{function.title}: {STEPS} steps, the best of {len(RATES)} learning rates"
    figure.suptitle(title, y=0.997)
    figure.tight_layout(rect=(0, 0, 1, 1))
    content = io.BytesIO()
    figure.savefig(content, dpi=100)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Lines of a few colours: a palette makes the file a third as large.
    image = Image.open(content).convert("RGB")
    image = image.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - set(FUNCTIONS)):
        print(f"unknown: {', '.join(unknown)}; choose from {', '.join(FUNCTIONS)}")
        return 2
    for name in names or FUNCTIONS:
        path = FOLDER / f"{name}.png"
        draw(FUNCTIONS[name], path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
