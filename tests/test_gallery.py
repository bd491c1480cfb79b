"""`docs/gallery.py`: paths over functions of two numbers."""

import importlib.util
import pathlib

import numpy as np
import pytest

pytestmark = pytest.mark.once

pytest.importorskip("matplotlib", reason="the gallery needs the extra `bench`")

SCRIPT = pathlib.Path(__file__).parent.parent / "docs" / "gallery.py"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["rosenbrock", "beale", "ravine"])
def test_gradients_are_those_of_the_functions(gallery, name):
    function = gallery.FUNCTIONS[name]
    point = np.array(function.start) + 0.1
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        slope = (function.value(*(point + step)) - function.value(*(point - step))) / 2e-5
        assert slope == pytest.approx(function.gradient(*point)[axis], rel=1e-6)
    assert function.value(*function.minimum) == pytest.approx(0.0, abs=1e-12)
    assert function.gradient(*function.minimum) == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("name", ["Adam", "Sophia"])
def test_paths_are_finite_repeatable_and_lead_down(gallery, name):
    function = gallery.FUNCTIONS["ravine"]
    found = gallery.best(name, function, steps=30, rates=(1e-3, 0.1))
    assert found.path.shape == (31, 2)
    assert np.isfinite(found.path).all()
    assert found.averages is None
    assert found.loss < function.value(*function.start) / 2
    again = gallery.run(name, function, found.rate, steps=30)
    np.testing.assert_array_equal(found.path, again.path)


def test_schedule_free_paths_have_averages(gallery):
    found = gallery.run("ScheduleFreeSGD", gallery.FUNCTIONS["ravine"], 0.1, steps=10)
    assert found.averages.shape == (11, 2)
    assert np.abs(found.averages - found.path).max() > 1e-3


def test_rates_with_which_a_path_leaves_are_not_taken(gallery):
    function = gallery.FUNCTIONS["rosenbrock"]
    assert gallery.run("SGD", function, 10.0).loss == np.inf
    assert gallery.best("SGD", function, steps=20, rates=(1e-4, 10.0)).rate == 1e-4
    with pytest.raises(ValueError, match="SGD leaves the panel on Rosenbrock"):
        gallery.best("SGD", function, steps=20, rates=(10.0,))


def test_a_name_that_is_no_function_is_refused(gallery, capsys):
    assert gallery.main(["sphere"]) == 2
    assert "choose from rosenbrock, beale, ravine" in capsys.readouterr().out
