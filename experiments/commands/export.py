"""The command `export RUN_DIR --to FORMAT`: a trained model for where it is to run."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.export_formats import FORMATS
from experiments.files import write_atomically
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.run import restore_best
from experiments.suggest import did_you_mean
from gru_jax import training


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the best parameters of a finished run, with the model around them, as files.

    onnx: model.onnx, the whole model with its GRUs as nodes of ONNX's operator, for any batch and
    time. stablehlo: model.zip, and step.zip for streams, which `gru_jax.export.load` or JAX alone
    runs on CPU, GPU and TPU. safetensors: all parameters by their paths. torch: a state dict for
    torch.nn.GRU and torch.nn.Linear, as safetensors.
    """

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of a run that `train` has finished."""
    to: str
    """Format: onnx, stablehlo, safetensors or torch."""
    output: Path | None = None
    """Directory of the files; the default is export/ of the run."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files, of which some models have their sizes."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0, or 1 where a file cannot be written.

    Raises:
        UserError: a directory without a finished run, a format that is none or cannot hold the
            model, files that are there already.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments export")
    if options.to not in FORMATS:
        raise UserError(
            f"There is no format {options.to}.{did_you_mean(options.to, FORMATS)} "
            f"The formats are {', '.join(FORMATS)}."
        )
    run = RunDirectory(options.run_dir)
    if not run.config.exists():
        raise UserError(f"There is no run in {run.path}: it holds no config.yaml.")
    config = load_config(run.config)
    try:
        task, params = restore_best(run, config, options.data_dir)
        written = FORMATS[options.to](config, task.export_spec, params)
    except (training.TrainingError, ImportError) as error:
        raise UserError(str(error)) from None
    folder = options.output or run.path / "export"
    paths = {folder / name: content for name, content in written.items()}
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise UserError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already. "
            "Give another --output."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in paths.items():
            write_atomically(path, content)
            print(path)
    except OSError as error:
        print(f"{error.filename or folder} cannot be written: {error.strerror}.", file=sys.stderr)
        return 1
    return 0
