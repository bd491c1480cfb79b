"""Ctrl-C between two steps, never within one."""

import threading

# `signal` without its conversions from and to enumerations, which take ten times as long.
from _signal import SIGINT, getsignal, signal


class DeferredInterrupts:
    """A context during which Python handles no interrupt (SIGINT); it does right afterwards.

    A step is several operations: an interrupt between them would leave updated weights and a stale
    counter. Only the main thread handles signals; elsewhere, and where the handler is not Python's,
    this does nothing.
    """

    def __init__(self):
        self._handler = None
        self._received = None

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self
        handler = getsignal(SIGINT)
        if callable(handler):
            try:
                signal(SIGINT, self._receive)
            except ValueError:  # not the main interpreter
                return self
            self._handler = handler
        return self

    def _receive(self, number, frame):
        self._received = number, frame

    def __exit__(self, *exception):
        if self._handler is None:
            return
        signal(SIGINT, self._handler)
        if self._received:
            self._handler(*self._received)
