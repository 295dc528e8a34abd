"""SIGINT and SIGTERM as requests to stop: noted by a handler, obeyed where the program looks.

An exception raised by a handler may be lost: JAX calls Python from C++, where it is ignored. So the
handler only notes the first signal, and :func:`check` raises where stopping is safe. The second
signal ends the process at once. It is seen by a thread of its own, because Python runs handlers
only between two instructions of the main thread, which a compilation keeps waiting.
"""

import os
import signal
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_received: list[signal.Signals] = []


class Stopped(BaseException):
    """A signal asks to stop. Not an Exception, so that no handler of errors takes it for one."""

    def __init__(self, received: signal.Signals):
        super().__init__(received.name)
        self.signal = received


def watch() -> None:
    """Notes SIGINT and SIGTERM from now on, until the process ends."""
    reader, writer = os.pipe()
    is_posix = os.name == "posix"
    if is_posix:
        os.set_blocking(writer, False)
    threading.Thread(target=_read, args=(reader,), name="signals", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in SIGNALS:
        # Python writes the number of a signal to the pipe only if it has a handler.
        signal.signal(number, _do_nothing)
        if is_posix:
            # Interrupted system calls are restarted: not all libraries in C++ do so themselves.
            signal.siginterrupt(number, False)


def unwatch() -> None:
    """Restores the default handlers; raises Stopped if a signal was received before."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    check()


def is_watching() -> bool:
    """Whether :func:`watch` was called."""
    return signal.getsignal(signal.SIGINT) is _do_nothing


def received() -> signal.Signals | None:
    """Returns the first signal; None before that."""
    return _received[0] if _received else None


def check() -> None:
    """Raises Stopped if a signal was received."""
    if _received:
        raise Stopped(_received[0])


def name_of(received: signal.Signals) -> str:
    """Returns a signal as messages name it."""
    return "Ctrl-C" if received == signal.SIGINT else received.name


def _do_nothing(number: int, frame: object) -> None:
    pass


def _read(reader: int) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number not in SIGNALS:
                continue
            if _received:
                os._exit(128 + number)
            _received.append(signal.Signals(number))
