"""SIGTERM and Ctrl-C as a request to stop, to be met when it suits the run."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """A context in which SIGTERM and SIGINT are noted instead of ending the program.

    After the first signal a further SIGINT raises KeyboardInterrupt at once. Off the main
    thread, where Python allows no handlers, the context does nothing.

    Attributes:
        received: the first signal that came; None while there was none.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python, and cannot be.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
