"""SIGTERM and Ctrl-C as requests to stop, which the training loop obeys between two steps."""

import itertools
import signal
import threading
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

# Asked at each step in every process. Unlike a step's number it never begins again at a resume.
_inquiries = itertools.count()


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
            for number in self._handled():
                self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that was not installed from Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def first(self) -> signal.Signals | None:
        """Returns the first signal received; None before that."""
        return self.received

    def _handled(self) -> tuple[signal.Signals, ...]:
        return (signal.SIGTERM, signal.SIGINT)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


class AgreedSignalHandler(SignalHandler):
    """The same for several processes, which all stop at the same step when one gets a signal.

    `jax.distributed.initialize` has JAX itself handle SIGTERM. Its coordinator asks all processes
    how far they are and names a step that none has passed. Ctrl-C is handed on as SIGTERM.
    """

    def first(self) -> signal.Signals | None:
        """Returns SIGTERM from the agreed step on; None before. Every process asks at each step.

        Raises:
            RuntimeError: JAX's preemption service is disabled.
        """
        if self.received is None and multihost_utils.reached_preemption_sync_point(
            next(_inquiries)
        ):
            self.received = signal.SIGTERM
        return self.received

    def _handled(self) -> tuple[signal.Signals, ...]:
        return (signal.SIGINT,)

    def _record(self, number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGTERM)
