"""What one run of a program works on: variables and slots, grouped by device."""

import dataclasses
import functools

import tensorflow as tf

from tf_optim_ext import _keras
from tf_optim_ext.backends import native
from tf_optim_ext.backends.native import Group

_FLOATING = {dtype.as_datatype_enum for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64)}


@dataclasses.dataclass(frozen=True)
class Targets:
    """Variables and slots, as `tf.Variable`s.

    Attributes:
        weights: list of variables.
        slots: for each slot of the program, in order, the list of its variables.
        variable_scalars: likewise, for its scalar state of each variable, or of each row.
        optimizer_scalars: the variables of its scalar state that all variables share.
        whole: the variables as the caller passed them; kept alive, as their `id`s are cache keys.
        is_joint: whether the update of a variable depends on the others.
        beside: for each slot of a `Beside`, in order, the list of its variables.
        packs_handles: whether `groups` are packed.
    """

    weights: list
    slots: list
    variable_scalars: list
    optimizer_scalars: list
    whole: list
    is_joint: bool
    beside: list = dataclasses.field(default_factory=list)
    packs_handles: bool = False

    @functools.cached_property
    def obstacle(self):
        """Why the native library cannot update these variables, or None."""
        for variable in self.weights:
            if reason := obstacle(variable):
                return reason
        return self._obstacle_of_joint_rule

    @functools.cached_property
    def obstacle_on_gpus(self):
        """Why kernels for GPUs cannot update these variables, which are there; or None."""
        for variable in self.weights:
            if variable.dtype not in native.FORMATS:
                return _of_dtype(variable)
        devices = [variable.device for variable in self.weights]
        beside = [*self.slots, *self.variable_scalars]
        beside += [[scalar] * len(devices) for scalar in self.optimizer_scalars]
        for variables in beside:
            if [variable.device for variable in variables] != devices:
                return "state on another device than the weights"
        return self._obstacle_of_joint_rule

    @functools.cached_property
    def have_16_bits(self):
        """Whether some weights or slots are of 16 bits."""
        variables = [*self.weights, *(v for slot in self.slots for v in slot)]
        return any(variable.dtype.size == 2 for variable in variables)

    @property
    def _obstacle_of_joint_rule(self):
        if self.is_joint and len(self.devices) > 1:
            return "a rule over all variables, and weights on several devices"
        return None

    def fit(self, gradients):
        """Whether these are eager tensors, one for each weight and of its shape."""
        shapes = self._shapes
        return len(gradients) == len(shapes) and _keras.are_dense(gradients, shapes, _FLOATING)

    @functools.cached_property
    def _shapes(self):
        return [tuple(weight.shape) for weight in self.weights]

    @functools.cached_property
    def are_on_gpus(self):
        """Whether all weights are on GPUs of this process."""
        task = _keras.local_task()
        return {_local_kind(weight.device, task) for weight in self.weights} == {"GPU"}

    @functools.cached_property
    def compiled(self):
        """Functions that XLA compiled for these variables; see `backends.tensorflow`."""
        return {}

    @functools.cached_property
    def devices(self):
        """Names of the devices of the weights."""
        return list(dict.fromkeys(weight.device for weight in self.weights))

    @property
    def device(self):
        """Name of the device of all weights; None if there are several."""
        return self.devices[0] if len(self.devices) == 1 else None

    @functools.cached_property
    def without_beside(self):
        """The targets of the program alone."""
        return dataclasses.replace(self, beside=[])

    @functools.cached_property
    def alone(self):
        """Targets of programs over the variables of each slot in `beside`."""
        return [Targets(v, [], [], [], v, False, [], self.packs_handles) for v in self.beside]

    @functools.cached_property
    def groups(self):
        """The variables by device."""
        members: dict[str, list[int]] = {}
        for i, weight in enumerate(self.weights):
            members.setdefault(weight.device, []).append(i)
        groups = [
            Group(
                device,
                positions,
                [self.weights[i].handle for i in positions],
                [s[i].handle for s in (*self.slots, *self.beside) for i in positions],
                [
                    *(scalar[i].handle for scalar in self.variable_scalars for i in positions),
                    *(scalar.handle for scalar in self.optimizer_scalars),
                ],
            )
            for device, positions in members.items()
        ]
        if not self.packs_handles:
            return groups
        return [group.packed(is_gpu(group.device)) for group in groups]


def obstacle(variable):
    """Why the native library cannot update a `tf.Variable`, or None."""
    if variable.dtype not in native.FORMATS:
        return _of_dtype(variable)
    if not tf.DeviceSpec.from_string(variable.device).device_type and _keras.has_gpus():
        # In a graph, whose devices are chosen when a session runs it.
        return "weights that may be placed on a GPU"
    return elsewhere(variable.device)


def _of_dtype(variable):
    return f"weights of dtype {variable.dtype.name}"


def elsewhere(device):
    """Why no native op can work on weights on a device, given its name, or None."""
    if _local_kind(device, _keras.local_task()) in (None, "CPU"):
        return None
    return f"weights on {device}"


def is_gpu(device):
    """Whether a device, given its name, is a GPU of this process."""
    return _local_kind(device, _keras.local_task()) == "GPU"


@functools.lru_cache(maxsize=256)
def _local_kind(device, task):
    """ "CPU", "GPU", ...; "remote" if it is a device of another process than that of `task`.

    None if the name leaves it open. Other processes need not have the library.
    """
    device, task = (tf.DeviceSpec.from_string(name) for name in (device, task))
    is_here = (
        device.job in (None, task.job)
        and device.replica in (None, task.replica)
        and device.task in (None, task.task)
    )
    return device.device_type if is_here else "remote"


class TargetsCache:
    """Remembers the targets of eager steps, where looking them up would take most of the time."""

    CAPACITY = 16

    def __init__(self):
        self._targets = {}

    def find(self, program, variables):
        """Targets if an earlier eager step ran this program over these variables, or None."""
        seen = self._targets.get((program.fingerprint, *map(id, variables)))
        return next(iter(seen.values())) if seen else None

    def get(self, program, variables, beside, make):
        """The targets for a program, variables and a `Beside`; `make()` computes them."""
        if not tf.executing_eagerly() or tf.distribute.has_strategy():
            return make()
        key = (program.fingerprint, *map(id, variables))
        seen = self._targets.get(key)
        if seen is None:
            if len(self._targets) >= self.CAPACITY:
                self._targets.clear()
            seen = self._targets[key] = {}
        targets = seen.get(beside.slots)
        if targets is None:
            targets = seen[beside.slots] = dataclasses.replace(make(), packs_handles=True)
        return targets

    def __deepcopy__(self, memo):
        return TargetsCache()

    def __reduce__(self):
        return TargetsCache, ()


def make_targets(program, variables, get_slot, optimizer_scalars, beside):
    """The targets of a program that runs over variables.

    Args:
        program: a `rule.Program`.
        variables: list of variables.
        get_slot: function from a variable and the name of a slot to the slot.
        optimizer_scalars: dict from name to variable: the scalar state that all variables share.
        beside: the `Beside` of the step.
    """

    def slots(names):
        return [
            [_keras.tensorflow_variable(get_slot(v, name)) for v in variables] for name in names
        ]

    return Targets(
        [_keras.tensorflow_variable(v) for v in variables],
        slots(program.slots),
        slots(program.variable_scalars),
        [_keras.tensorflow_variable(optimizer_scalars[n]) for n in program.optimizer_scalars],
        list(variables),
        program.is_joint,
        slots(beside.slots),
    )
