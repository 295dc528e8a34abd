"""SIGTERM and Ctrl-C as requests to stop, which the training loop obeys between two steps."""

import signal
import threading
from types import FrameType
from typing import Any


class SignalHandler:
    """A context that records SIGTERM and SIGINT instead of ending the program.

    After the first signal a further SIGINT raises KeyboardInterrupt at once. Outside the main
    thread, where Python allows no signal handlers, the context does nothing.

    Attributes:
        received: the first signal received; None before that.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def first(self) -> signal.Signals | None:
        """Returns the first signal received; None before that."""
        return self.received

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
