"""What can stop a run, each with a message that is a complete sentence to show to a user."""

import errno
import math
import os
import re
from pathlib import Path


class TrainingError(Exception):
    """The base class of all errors of :mod:`gru_jax.training`; its message is meant for users."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written, found or read."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is whole, but is that of another model or optimizer."""


class MetricsError(TrainingError):
    """The file of metrics cannot be written or read."""


class NonFiniteLossError(TrainingError):
    """The loss or the gradients' norm is infinite or not a number.

    Attributes:
        step: the first step it happened at, counted from one.
        batch_index: the argument of ``batch_at`` that gave that step's batch.
        last_checkpoint: the newest checkpoint, which was saved before; None where there is none.
    """

    def __init__(
        self,
        step: int,
        batch_index: int,
        last_checkpoint: Path | None,
        *,
        figure: str = "loss",
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
            f"The {figure} is {value} at step {step}, on the batch of index {batch_index}; {good}."
        )


def reason(error: Exception) -> str:
    """Returns what an error says, without what the sentence around it says already."""
    if isinstance(error, FileExistsError):
        # Making a directory failed at a file of that name.
        return os.strerror(errno.ENOTDIR)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # TensorStore wraps the operating system's error in much about itself.
    code = re.search(r"os_error_code='(\d+)'", lines[0])
    return os.strerror(int(code[1])) if code else lines[0].rstrip(".")
