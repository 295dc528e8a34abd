"""Errors that can stop a run. Each message is a complete sentence for users."""

import errno
import math
import os
import re
from pathlib import Path


class TrainingError(Exception):
    """Base class of all errors of :mod:`gru_jax.training`; its message is meant for users."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, found or read."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is intact, but belongs to another model or optimizer."""


class MetricsError(TrainingError):
    """The metrics file cannot be written or read."""


class NonFiniteLossError(TrainingError):
    """The loss or the gradient norm is infinite or not a number.

    Attributes:
        step: the first step with such a value, counted from one.
        batch_index: the argument of ``batch_at`` that gave that step's batch.
        last_checkpoint: the latest checkpoint, saved before that step; None if there is none.
    """

    def __init__(
        self,
        step: int,
        batch_index: int,
        last_checkpoint: Path | None,
        *,
        metric: str = "loss",
        value: float = math.nan,
    ):
        self.step = step
        self.batch_index = batch_index
        self.last_checkpoint = last_checkpoint
        good = (
            "no checkpoint was saved before"
            if last_checkpoint is None
            else f"the last good checkpoint is {last_checkpoint}"
        )
        super().__init__(
            f"The {metric} is {value} at step {step}, on the batch of index {batch_index}; {good}."
        )


def error_message(error: Exception) -> str:
    """Returns the cause that an error names, without the path that the caller names already."""
    if isinstance(error, FileExistsError):
        # A directory could not be made because a file has its name.
        return os.strerror(errno.ENOTDIR)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # TensorStore embeds the operating system's error code in a longer message of its own.
    code = re.search(r"os_error_code='(\d+)'", lines[0])
    return os.strerror(int(code[1])) if code else lines[0].rstrip(".")
