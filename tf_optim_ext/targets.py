"""What one run of a program works on: variables, their slots, and how they are grouped."""

import dataclasses
import functools

import tensorflow as tf

from tf_optim_ext import compat, native


@dataclasses.dataclass(frozen=True)
class Group:
    """Variables of one device: positions in the list of all, handles, handles of their slots."""

    device: str
    members: list
    weights: list
    slots: list


@dataclasses.dataclass(frozen=True)
class Targets:
    """Variables and slots, as `tf.Variable`s.

    Attributes:
        weights: list of variables.
        slots: for each slot of the program, in order, the list of its variables.
        whole: the variables as they were given; kept, because `id`s identify this object.
    """

    weights: list
    slots: list
    whole: list

    @functools.cached_property
    def obstacle(self):
        """Why the native library cannot update these variables, or None."""
        for variable in self.weights:
            if variable.dtype not in native.FORMATS:
                return f"weights of dtype {variable.dtype.name}"
            if tf.DeviceSpec.from_string(variable.device).device_type not in (None, "CPU"):
                return f"weights on {variable.device}"
        return None

    @functools.cached_property
    def groups(self):
        """The variables by device."""
        members: dict[str, list[int]] = {}
        for i, weight in enumerate(self.weights):
            members.setdefault(weight.device, []).append(i)
        return [
            Group(
                device,
                positions,
                [self.weights[i].handle for i in positions],
                [slot[i].handle for slot in self.slots for i in positions],
            )
            for device, positions in members.items()
        ]


class TargetsCache:
    """Remembers the targets of eager steps, where looking them up would take most of the time."""

    CAPACITY = 16

    def __init__(self):
        self._targets = {}

    def has(self, program, variables):
        """Whether an earlier eager step ran this program over these variables."""
        return (program.fingerprint, *map(id, variables)) in self._targets

    def get(self, program, variables, make):
        """The targets for a program and variables; `make()` computes them."""
        if not tf.executing_eagerly() or tf.distribute.has_strategy():
            return make()
        key = (program.fingerprint, *map(id, variables))
        targets = self._targets.get(key)
        if targets is None:
            if len(self._targets) >= self.CAPACITY:
                self._targets.clear()
            targets = self._targets[key] = make()
        return targets

    def __deepcopy__(self, memo):
        return TargetsCache()

    def __reduce__(self):
        return TargetsCache, ()


def of(program, variables, get_slot):
    """The targets of a program that runs over variables."""
    weights = [compat.tensorflow_variable(v) for v in variables]
    slots = [
        [compat.tensorflow_variable(get_slot(v, name)) for v in variables] for name in program.slots
    ]
    return Targets(weights, slots, list(variables))
