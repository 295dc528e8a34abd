"""Batches read ahead of the step that needs them, in threads."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Prefetcher:
    """A ``batch_at`` that reads the batches of the next steps in threads; a context.

    Batches are functions of the step, so threads change neither their content nor their order. An
    error of ``batch_at`` is raised at the step of its batch. Leaving the context drops what was
    read ahead, and waits for the threads.

    Args:
        batch_at: as for :func:`gru_jax.training.fit`; called from several threads.
        ahead: number of batches read ahead, each in a thread of its own.
        steps: batches from this one on are not read.
    """

    def __init__(self, batch_at: Callable[[int], Any], ahead: int, steps: int):
        self._batch_at = batch_at
        self._ahead = ahead
        self._steps = steps
        self._batches: dict[int, Future[Any]] = {}
        self._threads = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch")

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *exception: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Any:
        """Returns the batch of a step. Steps must be asked for in order."""
        for needed in range(step, min(step + self._ahead + 1, self._steps)):
            if needed not in self._batches:
                self._batches[needed] = self._threads.submit(self._batch_at, needed)
        return self._batches.pop(step).result()
