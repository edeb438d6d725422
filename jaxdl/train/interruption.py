"""Requests to stop training, without loss."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Training was asked to stop, by the signal of number ``signal``, and has saved its state."""

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class StopFlag:
    """Within ``with flag:``, the first SIGINT or SIGTERM only sets ``received``, its number, which
    the loop reads between dispatches.

    A line on standard error confirms it. A second signal, or any after the ``with``, has its usual
    effect. Python handles signals in the main thread alone: in another the flag handles none, and
    ``received`` can be set by hand.
    """

    def __init__(self):
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        self.received = None  # it has been heard, and the flag may serve again

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"\nasked to stop: as soon as all is saved, or, asked again, at once\n")
        self._restore()

    def _restore(self) -> None:
        """Restore the handlers that the signals had before."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            # None is a handler that is not Python's, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
