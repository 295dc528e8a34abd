"""What a command is doing, on stderr: a line that is kept up to date on a terminal, else lines.

Nothing is said until :func:`turn_on` was called, as the command line does.
"""

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

INTERVAL = 5.0
"""Seconds between two lines where stderr is no terminal."""
REFRESH = 0.25
"""Seconds between two states of the line on a terminal."""

Say = Callable[[str], None]
_is_on: list[bool] = []


def turn_on() -> None:
    """Makes :func:`doing` say something in this process."""
    _is_on[:] = [True]


def turn_off() -> None:
    """Keeps this process silent, as all but the first of several are."""
    _is_on.clear()


def is_on() -> bool:
    """Whether :func:`turn_on` was called."""
    return bool(_is_on)


@contextlib.contextmanager
def doing(what: str, *, after: float = 0.0) -> Iterator[Say]:
    """Says what is being done, and again as long as it takes.

    Args:
        what: what is being done.
        after: seconds before the first word; nothing is said of what takes less.

    Yields:
        A function that says something else from now on.
    """
    if not is_on():
        yield lambda text: None
        return
    line = _Line(what, sys.stderr, after)
    try:
        yield line.say
    finally:
        line.end()


def duration(seconds: float) -> str:
    """Returns a duration in words, such as 12 s, 3 min 5 s or 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Line:
    """A line that a thread keeps writing, because the main thread compiles or computes."""

    def __init__(self, text: str, stream: TextIO, after: float):
        self._text, self._stream, self._after = text, stream, after
        # A terminal that calls itself dumb cannot go back to the start of a line.
        self._is_rewritten = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._started = time.monotonic()
        self._is_over = threading.Event()
        self._is_written = False
        self._thread = threading.Thread(target=self._repeat, name="status", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        self._text = text

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
        if self._is_rewritten and self._is_written:
            self._write(self._timed(), end="\n")

    def _repeat(self) -> None:
        if self._after and self._is_over.wait(self._after):
            return
        self._is_written = True
        self._write(self._text)
        while not self._is_over.wait(REFRESH if self._is_rewritten else INTERVAL):
            self._write(self._timed())

    def _timed(self) -> str:
        return f"{self._text} ({duration(time.monotonic() - self._started)})"

    def _write(self, text: str, end: str = "") -> None:
        # A reader that has closed the pipe is no reason to stop.
        with contextlib.suppress(OSError, ValueError):
            if self._is_rewritten:
                width = shutil.get_terminal_size().columns - 1
                self._stream.write(f"\r{text[:width]:{width}}{end}")
            else:
                self._stream.write(f"{text}\n")
            self._stream.flush()
