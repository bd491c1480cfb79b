"""Arguments of one call of an optimizer, for what runs within it.

Methods that Keras knows, such as `apply`, stand between a call and the place where its argument is
needed, and cannot take it. A context variable is seen by the thread that made the call, and by no
other: not by the replicas of `MirroredStrategy` beside it, nor by another loop that trains with the
same optimizer.
"""

import contextlib
import contextvars

_calls: contextvars.ContextVar[tuple] = contextvars.ContextVar("tf_optim_ext_calls", default=())


@contextlib.contextmanager
def arguments(optimizer, **given):
    """While active, `argument` finds what was given; the innermost of several calls wins."""
    token = _calls.set((*_calls.get(), (optimizer, given)))
    try:
        yield
    finally:
        _calls.reset(token)


def argument(optimizer, name, default=None):
    """An argument of the current call of an optimizer, or `default` if it was not given."""
    for owner, given in reversed(_calls.get()):
        if owner is optimizer and name in given:
            return given[name]
    return default
