"""Slots that exist before the optimizer is built, because a checkpoint holds them.

`tf.train.Checkpoint.restore` passes each slot with its variable. So the slots of existing variables
are there when it returns, as in TensorFlow 2.0; `build` takes them over, at their places in the
order of creation.
"""

import contextlib

import tensorflow as tf


def create(optimizer, variable, slot_name, key, position):
    """The slot that `build` will take over; None if it will not, or not in this form.

    Args:
        optimizer: the optimizer, without such a slot.
        variable: the variable that the slot belongs to.
        slot_name, key: name of the slot, and what identifies the variable.
        position: where the slot is in the checkpoint.
    """
    restored = optimizer._untracked.restored_slots.get((slot_name, key))
    if restored is not None or optimizer.built or not _can_be_created(position):
        return restored
    if not tf.as_dtype(variable.dtype).is_floating or not variable.shape.is_fully_defined():
        return None
    shape, dtype = _declared(optimizer, variable, slot_name)
    if shape is None or position.value_shape() != shape:
        return None
    name = optimizer._name_of_slot(variable, slot_name)
    with _scope_of(optimizer):
        slot = optimizer._add_beside(variable, name, tf.zeros(shape, dtype), dtype)
    optimizer._state_variables[:] = [v for v in optimizer._state_variables if v is not slot]
    optimizer._untracked.restored_slots[slot_name, key] = slot
    return slot


def find(optimizer, variable, slot_name, key):
    """A slot that a checkpoint holds and `build` has not taken yet, or None.

    One that the optimizer does not declare, and that may be of `add_slot`, is created when it is
    asked for, and not before: it may as well be of another optimizer.
    """
    slot = optimizer._untracked.restored_slots.get((slot_name, key))
    positions = optimizer._untracked.pending_positions.get((slot_name, key))
    if slot is not None or not positions or not _can_be_created(positions[-1]):
        return slot
    if _declared(optimizer, variable, slot_name)[0] is not None:
        return None
    with _scope_of(optimizer):
        return optimizer.add_slot(variable, slot_name, shape=positions[-1].value_shape())


def rows(variable):
    """The shape of what has one scalar for each row of a variable."""
    return [variable.shape[0] if variable.shape.rank else 1]


def _can_be_created(position):
    return tf.executing_eagerly() and position.is_simple_variable()


def _scope_of(optimizer):
    strategy = optimizer._strategy
    inside = tf.distribute.get_strategy() is strategy
    return contextlib.nullcontext() if inside else strategy.scope()


def _declared(optimizer, variable, slot_name):
    """Shape and dtype of the slot of a variable that `build` creates; None if it creates none."""
    program = optimizer._program()
    if slot_name in program.variable_scalars:
        return rows(variable) if program.by_row else [], "float64"
    dtype = "float64" if tf.as_dtype(variable.dtype) == tf.float64 else "float32"
    if slot_name == "accumulated_rows":
        exists = optimizer.gradient_accumulation_steps and optimizer.sparse != "exact"
        return rows(variable) if exists else None, dtype
    exists = {
        "average": optimizer.use_ema,
        "gradient_accumulator": bool(optimizer.gradient_accumulation_steps),
    }
    exists = exists.get(slot_name, slot_name in program.slots)
    return list(variable.shape) if exists else None, dtype
