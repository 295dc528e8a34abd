"""Options for several devices and processes, parsed before JAX is imported."""

import dataclasses
import re
from pathlib import Path

import tyro

from experiments.config import ExperimentConfig
from experiments.errors import UserError

Mesh = dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Which of several processes this one is, if the command has several."""

    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """One of several processes that train together, each started by this command. On Slurm, with
    Open MPI and on TPU pods JAX finds out which one it is; elsewhere give the next three options,
    too. They share --run-dir, and process 0 writes to it."""
    coordinator: str | None = None
    """HOST:PORT of process 0, on which it listens for the others."""
    num_processes: int | None = None
    """Number of processes."""
    process_id: int | None = None
    """Number of this process, from 0."""


def parse_mesh(text: str, axes: tuple[str, ...]) -> Mesh:
    """Returns the sizes of a mesh by axis, of a text such as `data=2,seed=2`.

    Raises:
        UserError: it is none, has an axis that is not among `axes`, or one twice.
    """
    sizes: Mesh = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\w+)=([1-9]\d{0,5})", part.strip())
        if match is None or match[1] not in axes or match[1] in sizes:
            example = ",".join(f"{axis}=2" for axis in axes)
            raise UserError(
                f"--mesh is {text!r}, but should give a number of devices for "
                f"{' or '.join(axes)}, such as {example}."
            )
        sizes[match[1]] = int(match[2])
    return sizes


def check_batch(config: ExperimentConfig, num_devices: int, where: str) -> None:
    """Raises UserError if so many devices do not divide the batch."""
    if config.training.batch_size % num_devices:
        raise UserError(
            f"training.batch_size is {config.training.batch_size}, but should be a multiple of "
            f"{num_devices}, the devices that {where} splits a batch over."
        )


def check_processes(options: ProcessOptions, run_dir: Path | None) -> None:
    """Raises UserError if options of several processes contradict each other."""
    for name in ("coordinator", "num_processes", "process_id"):
        if getattr(options, name) is not None and not options.distributed:
            raise UserError(f"--{name.replace('_', '-')} needs --distributed.")
    if not options.distributed:
        return
    if run_dir is None:
        raise UserError("--distributed needs --run-dir, a directory that all processes share.")
    count, number = options.num_processes, options.process_id
    if count is not None and count < 1:
        raise UserError(f"--num-processes is {count}, but should be 1 or more.")
    if number is not None and not 0 <= number < (count or number + 1):
        raise UserError(
            f"--process-id is {number}, but should be from 0 to {(count or 1) - 1}, less than "
            "--num-processes."
        )
    if options.coordinator is not None and not re.fullmatch(r".+:\d{1,5}", options.coordinator):
        raise UserError(f"--coordinator is {options.coordinator!r}, but should be HOST:PORT.")
