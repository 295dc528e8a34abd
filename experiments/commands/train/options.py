"""Options of `train`, parsed before JAX is imported."""

import dataclasses
from pathlib import Path
from typing import Annotated, Generic

import tyro

from experiments import program
from experiments.command_help import described
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.runs.cli_options import Config, Parsed, parse_options
from experiments.runs.directory import Resume
from experiments.runs.log_options import parse_logs
from experiments.runs.mesh_options import (
    ProcessOptions,
    check_batch,
    check_processes,
    parse_mesh,
)

PROGRAM = f"{program.PROGRAM} train"
USAGE = described(
    "train digits --seed 3 --model.hidden-size 64",
    "Trains the experiment of CONFIG, a YAML file or a config of the project by its name, and "
    "reports its test metrics next to baselines.",
)


@dataclasses.dataclass(frozen=True)
class TrainOptions(ProcessOptions, Generic[Config]):
    """Options of `train`; the fields of `config` are options without a prefix."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    run_dir: Path | None = None
    """Directory of the run, new or to resume, or its URL, gs://BUCKET/PATH; the default is
    runs/NAME/TIME-sSEED."""
    resume: Resume = "auto"
    """Whether to resume the run in --run-dir: if there is one, never, or there must be one."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also writes the metrics as TensorBoard event files, to tensorboard/ of the run."""
    log: str | None = None
    """Where else metrics go: wandb, mlflow, tensorboard, or several of them, as in wandb,mlflow."""
    mesh: str | None = None
    """Devices, such as data=4: each batch is split over four. The default is one device, and with
    --distributed all devices of all processes."""

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of all logs that are asked for."""
        return parse_logs(self.log, tensorboard=self.tensorboard)


def parse(arguments: list[str]) -> Parsed[TrainOptions] | None:
    """Returns the options, or None if --help was printed.

    Raises:
        UserError, SystemExit: as :func:`experiments.runs.cli_options.parse_options`.
    """
    parsed = parse_options(TrainOptions, arguments, PROGRAM, USAGE)
    if parsed is None:
        return None
    parse_logs(parsed.options.log, tensorboard=parsed.options.tensorboard)
    if parsed.options.resume == "must" and parsed.options.run_dir is None:
        raise UserError("--resume must needs --run-dir, the directory of the run to resume.")
    check_processes(parsed.options, parsed.options.run_dir)
    if parsed.options.mesh is not None:
        mesh = parse_mesh(parsed.options.mesh, ("data",))
        check_batch(parsed.options.config, mesh["data"], "--mesh")
    return parsed
