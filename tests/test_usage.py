"""Every way of using models, with an optimizer of each kind; what there is says `usage.py`."""

import pytest
import usage
import usage_two_devices
from common import outcomes_of

SOME = usage.some_cells()


def cells(every, some):
    long = [pytest.param(cell, marks=pytest.mark.long) for cell in every if cell not in some]
    return pytest.mark.parametrize("cell", [*some, *long], ids=str)


@cells(usage.every_cell(), SOME)
def test_one_device(cell, tmp_path):
    cell.check(tmp_path)


def test_the_sample_has_everything():
    for field in ("model", "build", "way", "optimizer"):
        values = {getattr(cell, field) for cell in usage.every_cell()}
        assert {getattr(cell, field) for cell in SOME} == values


@pytest.fixture(scope="module")
def on_two_devices():
    """Outcomes of an optimizer's cells, by their names; each in a process of its own."""
    found = {}

    def outcomes(name, which):
        if (name, which) not in found:
            found[name, which] = outcomes_of("usage_two_devices.py", which, name)
        return found[name, which]

    return outcomes


def test_two_devices(on_two_devices):
    outcomes = on_two_devices("all", "some")
    assert len(outcomes) == len(usage_two_devices.SOME)
    assert {name: outcome for name, outcome in outcomes.items() if outcome != "equal"} == {}


@pytest.mark.long
@pytest.mark.parametrize("name", usage.OPTIMIZERS)
def test_every_cell_on_two_devices(on_two_devices, name):
    outcomes = on_two_devices(name, "every")
    assert len(outcomes) == sum(c.optimizer == name for c in usage_two_devices.EVERY)
    assert {cell: outcome for cell, outcome in outcomes.items() if outcome != "equal"} == {}
