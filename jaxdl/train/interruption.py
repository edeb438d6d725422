"""A request to stop training, which loses nothing."""

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

    It says so on standard error. A second signal does what it did before, and so does any after the
    ``with``. Python tells signals to the main thread alone: in another none is taken over, and who
    wants that one to stop sets ``received``.
    """

    def __init__(self):
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()
        self.received = None  # it has been heard, and the flag may serve again

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        with suppress(OSError):  # standard error may be closed
            os.write(2, b"\nasked to stop: as soon as all is saved, or, asked again, at once\n")
        self._give_back()

    def _give_back(self) -> None:
        """Let the signals do what they did before."""
        while self._before:
            number, handler = self._before.popitem()
            # None is a handler that is not Python's, which cannot be had again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
