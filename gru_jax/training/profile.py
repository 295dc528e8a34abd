"""A trace of some train steps, for XProf and TensorBoard."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax

from gru_jax import _checks
from gru_jax.training import processes


@dataclasses.dataclass(frozen=True)
class ProfileOptions:
    """Which train steps are traced by :mod:`jax.profiler`, and where to.

    The trace begins when the device has finished the step before ``first_step``, and ends when it
    has finished ``last_step``. A run that resumes within these steps traces the remaining ones.

    Attributes:
        directory: directory of the trace; made if it does not exist.
        first_step: the first traced step, counted from 1.
        last_step: the last one.

    Raises:
        TypeError: a step is not an integer.
        ValueError: ``first_step`` is not positive, or above ``last_step``.
    """

    directory: str | os.PathLike[str]
    first_step: int
    last_step: int

    def __post_init__(self) -> None:
        _checks.positive_int("first_step", self.first_step)
        _checks.positive_int("last_step", self.last_step)
        if self.first_step > self.last_step:
            raise ValueError(
                f"first_step={self.first_step} must not be above last_step={self.last_step}"
            )


class Profiler:
    """Traces the steps of a run; a context manager that ends a trace under way.

    Of several processes only the first one traces. None traces nothing.
    """

    def __init__(self, options: ProfileOptions | None):
        self._options = options if processes.is_first() else None
        self._is_tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int, state: Any) -> Iterator[None]:
        """Surrounds a train step; the trace begins here if this is its first one."""
        options = self._options
        if options is None or not options.first_step <= number <= options.last_step:
            yield
            return
        if not self._is_tracing:
            jax.block_until_ready(state)
            jax.profiler.start_trace(os.fspath(options.directory))
            self._is_tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def is_last(self, number: int) -> bool:
        """Whether the trace ends with this step."""
        return self._is_tracing and self._options is not None and number == self._options.last_step

    def stop(self, state: Any) -> None:
        """Waits for the device and ends the trace."""
        jax.block_until_ready(state)
        self._stop()

    def _stop(self) -> None:
        if self._is_tracing:
            self._is_tracing = False
            jax.profiler.stop_trace()
