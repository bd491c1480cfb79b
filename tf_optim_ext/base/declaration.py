"""What an optimizer declares: the state of its rule, and its hyperparameters."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Slot:
    """State with an element for each weight of a variable.

    Attributes:
        name: what the rule calls it: `s.<name>`.
        initial: its first value: a number, the name of a hyperparameter, or a Keras initializer.
            What starts from the weights or the first gradient is NaN at first, `math.nan`, and the
            rule reads it by `rule.unless_set`: weights may have no value yet when slots are
            created, may be loaded later, and have their first updates in different steps.
        row_wise: whether `row_wise=True` makes it a float64 scalar for each row. The rule
            finds that flag in `h`; see `rule.transforms.squared`.
        separate: whether it is created after the other slots of all variables, and not beside those
            of the same variable. Decides the order of `variables`, no more.
        old_name: what `OptimizerV2` and TensorFlow Addons called it, which `get_slot` takes, too.
    """

    name: str
    initial: Any = 0.0
    row_wise: bool = False
    separate: bool = False
    old_name: str | None = None


@dataclasses.dataclass(frozen=True)
class VariableScalar:
    """Scalar state, in float64, of each variable; `name` and `initial` as of `Slot`."""

    name: str
    initial: Any = 0.0


@dataclasses.dataclass(frozen=True)
class OptimizerScalar:
    """Scalar state, in float64, that all variables share; `name` and `initial` as of `Slot`."""

    name: str
    initial: Any = 0.0


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """A number that the constructor takes, and that may change from step to step.

    Attributes:
        name: of the argument; what the rule calls it: `h.<name>`.
        interval: its values, such as `"[0, 1)"`; or `"boolean"`: 0 or 1 in the rule.
    """

    name: str
    interval: str


@dataclasses.dataclass(frozen=True)
class Computed:
    """A number in `h` that is no argument: an override of `_hyperparameter_values` provides it."""

    name: str


@dataclasses.dataclass(frozen=True)
class Boolean:
    """An argument, True or False, that the rule may branch on with `if`."""

    name: str


@dataclasses.dataclass(frozen=True)
class Derived:
    """A boolean that the rule may branch on, and that follows from a hyperparameter.

    Attributes:
        name: what the rule calls it.
        hyperparameter: name of a number that makes another rule of it.
        special: that number.
        value: the boolean if the hyperparameter has it; its opposite otherwise.
    """

    name: str
    hyperparameter: str
    special: float
    value: bool


@dataclasses.dataclass(frozen=True)
class Choice:
    """An argument, one of some strings, that the rule may branch on; the first one is usual."""

    name: str
    values: tuple[str, ...]


STATE = (Slot, VariableScalar, OptimizerScalar)
HYPERPARAMETERS = (Hyperparameter, Computed, Boolean, Derived, Choice)


class Declaration:
    """All that a class and its bases declare, by kind; a class may declare a name anew.

    Attributes:
        slots: dict from name to `Slot`; likewise `variable_scalars`, `optimizer_scalars`,
            `derived`.
        old_names: dict from the old name of a slot to its name.
        initial: dict from the name of a slot or scalar to its first value.
        intervals: dict from the name of a hyperparameter to its interval.
        computed: names.
        flags: names of what is true or false, derived or not.
        choices: dict from name to values.
        arguments: names of the constructor's own arguments.
    """

    def __init__(self, cls):
        state = _collected(cls, "state", STATE)
        declared = _collected(cls, "hyperparameters", HYPERPARAMETERS)
        self.slots = _of_kind(state, Slot)
        self.old_names = {x.old_name: name for name, x in self.slots.items() if x.old_name}
        self.variable_scalars = _of_kind(state, VariableScalar)
        self.optimizer_scalars = _of_kind(state, OptimizerScalar)
        self.initial = {name: each.initial for name, each in state.items()}
        self.intervals = {n: x.interval for n, x in _of_kind(declared, Hyperparameter).items()}
        self.computed = tuple(_of_kind(declared, Computed))
        self.derived = _of_kind(declared, Derived)
        self.flags = (*_of_kind(declared, Boolean), *self.derived)
        self.choices = {n: x.values for n, x in _of_kind(declared, Choice).items()}
        self.arguments = [*self.intervals, *self.choices, *_of_kind(declared, Boolean)]

    @property
    def row_wise_slots(self):
        return tuple(name for name, slot in self.slots.items() if slot.row_wise)


def _of_kind(declared, kind):
    return {name: each for name, each in declared.items() if isinstance(each, kind)}


def _collected(cls, attribute, kinds):
    """Dict from name to what the classes of the MRO declare, those of bases first."""
    collected: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        declared = vars(base).get(attribute, ())
        if not isinstance(declared, (list, tuple)) or not all(
            isinstance(each, kinds) for each in declared
        ):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise TypeError(
                f"`{attribute}` of {base.__name__} must be a list of {names}. "
                f"Received: {declared!r}"
            )
        collected.update({each.name: each for each in declared})
    return collected
