"""A command that is one of several processes: its start, what process 0 does for all, its end."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

import jax

from experiments import status, stop
from experiments.errors import UserError
from experiments.runs.mesh_options import ProcessOptions
from gru_jax.training import processes

Result = TypeVar("Result")
# Process 0 evaluates and plots at the end, for which the others wait. If it dies, its heartbeats
# end, and the others notice.
SHUTDOWN_TIMEOUT_SECONDS = 24 * 3600


def run(options: ProcessOptions, command: Callable[[], int]) -> int:
    """Runs a command as one of several processes, if the options say so, and returns its exit code.

    A process that fails ends at once: at an ordinary exit it would wait for the others, which wait
    for it. They are ended by JAX, as soon as they miss its heartbeats.

    Raises:
        UserError: JAX does not find out which process this is.
    """
    if not options.distributed:
        return command()
    # From here on JAX handles SIGTERM, and training hands Ctrl-C on to it.
    stop.unwatch()
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.num_processes,
            options.process_id,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            f"--distributed: JAX finds no cluster here ({str(error).rstrip('.')}). "
            "Give --coordinator, --num-processes and --process-id."
        ) from None
    if not processes.is_first():
        status.turn_off()
    try:
        code = command()
    except UserError as error:
        print(error, file=sys.stderr)
        code = 2
    except BaseException:
        traceback.print_exc()
        code = 1
    if code in (1, 2):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def is_first() -> bool:
    """Whether this is the only process, or process 0."""
    return not jax.distributed.is_initialized() or processes.is_first()


def in_first(action: Callable[[], Result]) -> Result | None:
    """Calls a function in process 0, while the others wait; returns its result there, else None.

    Raises:
        UserError: it raised one, which the others are told of.
    """
    if not jax.distributed.is_initialized():
        return action()
    result, error = None, None
    if processes.is_first():
        try:
            result = action()
        except UserError as raised:
            error = raised
    (failed,) = processes.of_first([error is not None])
    if error is not None:
        raise error
    if failed:
        raise UserError("Process 0 ended with an error.")
    return result


def of_first(value: bool) -> bool:
    """Returns the value of process 0."""
    if not jax.distributed.is_initialized():
        return value
    return bool(processes.of_first([value])[0])
