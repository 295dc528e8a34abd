"""Checkpointer and context of Orbax, with one interface for all supported versions.

Up to 0.11 options of a context are frozen, and a checkpointer takes its context from where it is
called.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from gru_jax.training import processes

IS_OLD = not hasattr(ocp.training.Checkpointer, "wait")


def make_context(post_finalization_callback: Callable[[], None]) -> ocp.Context:
    """A context that saves the item ``record`` as JSON and calls a function before each commit."""
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, "record")
    if IS_OLD:
        return ocp.Context(
            checkpointables_options=ocp.options.CheckpointablesOptions(registry=registry),
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=post_finalization_callback
            ),
        )
    context = ocp.Context()
    context.checkpointables_options.registry = registry
    context.async_options.post_finalization_callback = post_finalization_callback
    return context


class _OldCheckpointer(ocp.training.Checkpointer):
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
