"""Reference implementations of the optimizers: float64 NumPy, written from the papers.

They serve to check the optimizers, so they are written to be compared with the papers line by
line, in the papers' letters, and share no code with what they check.

Each reference is a generator for one variable. It takes the initial weights `theta` (of any
shape, scalar and empty ones included) and an iterable of gradients, and yields after every step
the weights and a dictionary of the slots, as copies. Arguments and slots have Keras' names, and
where Keras and a paper differ, Keras' meaning of the arguments is followed; each docstring lists
these departures.

A gradient may be None in those in which something starts with the first gradient: the step has none
for this variable, which leaves it and its slots as they are; the number of the step goes on.

Departures common to all of them, except where a docstring says otherwise:

*   Weight decay is decoupled, multiplied by the learning rate, and applied before the update:
    theta <- theta - learning_rate * weight_decay * theta. The papers subtract the decay together
    with the update. Both come to the same, as no update here depends on the weights but those of
    `lamb` and `ftrl`, whose docstrings tell.
*   The learning rate is constant, and no schedule multiplier stands beside it.
"""

from references import addons, builtin, descendants, parameter_free, schedule_free
from references.builtin import (
    adadelta,
    adagrad,
    adam,
    adamax,
    adamw,
    ftrl,
    lamb,
    lion,
    nadam,
    rmsprop,
    sgd,
)

MODULES = (builtin, addons, descendants, parameter_free, schedule_free)


def find(name):
    """The reference of that name."""
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "find",
    "ftrl",
    "lamb",
    "lion",
    "nadam",
    "rmsprop",
    "sgd",
]
