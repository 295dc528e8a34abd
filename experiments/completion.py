"""Shell completion by tyro of all commands: `gru-jax --tyro-print-completion bash`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from experiments.bench.command import Options as BenchOptions
from experiments.commands.compare.options import CompareOptions
from experiments.commands.export import Options as ExportOptions
from experiments.commands.fetch import Options as FetchOptions
from experiments.commands.gradients import Options as GradientsOptions
from experiments.commands.init import Options as InitOptions
from experiments.commands.predict import Options as PredictOptions
from experiments.commands.sweep.options import SweepOptions
from experiments.commands.train.options import TrainOptions
from experiments.config import ExperimentConfig
from experiments.interop.command import Options as InteropOptions
from experiments.report.command import Options as ReportOptions
from experiments.runs.cli_options import PLAIN_VALUES
from experiments.runs.config_loading import included_configs


def main(arguments: list[str]) -> int:
    """Prints the script for a shell; tyro then raises SystemExit.

    Args:
        arguments: `--tyro-print-completion` and the shell: bash, zsh or tcsh.
    """
    commands: dict[str, Any] = {
        "init": InitOptions,
        "predict": PredictOptions,
        "train": _with_config(TrainOptions),
        "compare": _with_config(CompareOptions),
        "sweep": _with_config(SweepOptions),
        "gradients": GradientsOptions,
        "export": ExportOptions,
        "report": ReportOptions,
        "bench": BenchOptions,
        "interop": InteropOptions,
        "fetch": FetchOptions,
    }
    tyro.extras.subcommand_cli_from_dict(
        commands, prog="gru-jax", args=arguments, registry=PLAIN_VALUES
    )
    return 0


def _with_config(kind: Any) -> Any:
    """Returns options of a command with a config: its name, and fields that all configs have."""
    name: Any = tyro.conf.Positional[Literal[tuple(included_configs())]]
    options: Any = kind[ExperimentConfig]
    default = kind(config=ExperimentConfig(task=""))
    return dataclasses.make_dataclass(
        kind.__name__,
        [("name", name), ("options", Annotated[options, tyro.conf.arg(name="")], default)],
    )
