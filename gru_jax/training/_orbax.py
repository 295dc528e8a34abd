"""Checkpointer and context of Orbax, with one interface for all supported versions.

Up to 0.11 options of a context are frozen, and a checkpointer takes its context from where it is
called.
"""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from gru_jax.training import processes

# A computer may sleep during a save, and the time limits are of the clock. The one of creating
# directories asynchronously cannot be changed.
ASYNC_OPTIONS: dict[str, Any] = {
    "timeout_secs": 7 * 24 * 60 * 60,
    "create_directories_asynchronously": False,
}

IS_OLD = "context" not in inspect.signature(ocp.training.Checkpointer).parameters


def make_context(post_finalization_callback: Callable[[], None]) -> ocp.Context:
    """A context that saves the item ``record`` as JSON and calls a function before each commit."""
    handler, callback = ocp.handlers.JsonHandler, post_finalization_callback
    if IS_OLD:
        options: Any = ocp.options.CheckpointablesOptions
        return ocp.Context(
            checkpointables_options=options.create_with_handlers(record=handler),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=callback, **ASYNC_OPTIONS
            ),
        )
    registry = ocp.handlers.local_registry()
    registry.add(handler, checkpointable_name="record")
    context = ocp.Context()
    context.checkpointables_options.registry = registry
    for name, value in ASYNC_OPTIONS.items():
        setattr(context.async_options, name, value)
    context.async_options.post_finalization_callback = callback
    return context


class _OldCheckpointer(ocp.training.Checkpointer):  # pyright: ignore[reportGeneralTypeIssues]
    """What newer versions of the class do, as far as it is used here."""

    def __init__(
        self, directory: str, *, context: Any, cleanup_tmp_directories: bool, **options: Any
    ):
        self._context, self._response = context, None
        if cleanup_tmp_directories and processes.is_first():
            for leftover in Path(directory).glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(leftover)
        with context:
            super().__init__(directory, **options)

    def save_checkpointables_async(self, *arguments: Any, **options: Any) -> Any:
        with self._context:
            self._response = super().save_checkpointables_async(*arguments, **options)
        return self._response

    def wait(self) -> None:
        if self._response is not None:
            self._response.result()


Checkpointer = _OldCheckpointer if IS_OLD else ocp.training.Checkpointer
