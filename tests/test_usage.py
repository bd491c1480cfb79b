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


def unequal(cells, *arguments):
    """Those cells on two devices that are wrong, in a process of their own, and how."""
    outcomes = outcomes_of("usage_two_devices.py", *arguments)
    assert list(outcomes) == [str(cell) for cell in cells]
    return {name: outcome for name, outcome in outcomes.items() if outcome != "equal"}


@pytest.mark.long
def test_two_devices():
    assert unequal(usage_two_devices.SOME) == {}


@pytest.mark.long
@pytest.mark.parametrize("way", usage_two_devices.WAYS)
@pytest.mark.parametrize("optimizer", usage.OPTIMIZERS)
def test_every_cell_on_two_devices(optimizer, way):
    cells = [c for c in usage_two_devices.EVERY if (c.optimizer, c.way) == (optimizer, way)]
    assert unequal(cells, optimizer, way) == {}


@pytest.mark.long
def test_what_fails_on_two_devices_fails_with_keras_own_optimizers():
    """Once it does not, the cells that `usage_two_devices.py` leaves out are to be tested."""
    cells = usage_two_devices.IMPOSSIBLE
    outcomes = unequal(cells, "Keras", "function")
    assert list(outcomes) == [str(cell) for cell in cells]
    for outcome in outcomes.values():
        assert "You must feed a value for placeholder tensor" in outcome
