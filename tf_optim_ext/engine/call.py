"""Arguments of one call of an optimizer, for what runs within it.

Methods whose signature Keras fixes, such as `apply`, stand between a call and the code that needs
its argument. Only the thread that made the call sees a context variable: neither the other replicas
of `MirroredStrategy` do, nor another loop that trains with the same optimizer.
"""

import contextlib
import contextvars

_calls: contextvars.ContextVar[tuple] = contextvars.ContextVar("tf_optim_ext_calls", default=())


@contextlib.contextmanager
def arguments(optimizer, **values):
    """While active, `argument` finds these values; the innermost of several calls wins."""
    token = _calls.set((*_calls.get(), (optimizer, values)))
    try:
        yield
    finally:
        _calls.reset(token)


def argument(optimizer, name, default=None):
    """An argument of the current call of an optimizer, or `default` if it was not given."""
    for owner, values in reversed(_calls.get()):
        if owner is optimizer and name in values:
            return values[name]
    return default
