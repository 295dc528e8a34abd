"""The command `export RUN_DIR --to FORMAT`: writes a trained model for deployment."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_help
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.export_formats import FORMATS
from experiments.extras import require
from experiments.files import write_atomically
from experiments.runs import bucket
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.run import restore_model
from experiments.suggest import did_you_mean
from gru_jax import training


@dataclasses.dataclass(frozen=True)
class Options:
    """Exports the model of a finished run with its best parameters.

    onnx writes model.onnx, the whole model with ONNX's GRU operator, for any batch size and length.

    stablehlo writes model.zip, and step.zip for streaming, which `gru_jax.export.load` or JAX
    itself runs on CPU, GPU and TPU.

    safetensors writes all parameters by their paths.

    torch writes a state dict for torch.nn.GRU and torch.nn.Linear, as safetensors.
    """

    run_dir: Annotated[Path, tyro.conf.Positional]
    """Directory of a finished run of `train`, or its URL, gs://BUCKET/PATH."""
    to: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(FORMATS)}}}")]
    """Format."""
    output: Path | None = None
    """Directory of the files; the default is export/ of the run, unless that is in a bucket."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files, which determine the sizes of some models."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code: 0, or 1 where a file cannot be written.

    Raises:
        UserError: a directory without a finished run, a format that is unknown, needs a package
            that is not installed, or does not support the model, or files that exist already.
    """
    options = command_help.parse(Options, arguments, "export", "runs/served --to onnx")
    if options.to not in FORMATS:
        raise UserError(
            f"There is no format {options.to}.{did_you_mean(options.to, FORMATS)} "
            f"The formats are {', '.join(FORMATS)}."
        )
    export_format = FORMATS[options.to]
    require(export_format.package, "files", needed_by=f"--to {options.to}")
    bucket.check_output(options.run_dir, options.output)
    with bucket.read_copy(options.run_dir) as folder:
        return _export(RunDirectory(folder), options)


def _export(run: RunDirectory, options: Options) -> int:
    export_format = FORMATS[options.to]
    if not run.config.exists():
        raise UserError(f"There is no run in {run.path}: it holds no config.yaml.")
    config = load_config(run.config)
    try:
        model, params = restore_model(run, config, options.data_dir)
        written = export_format.write(config, model.export_spec, params)
    except training.TrainingError as error:
        raise UserError(str(error)) from None
    folder = options.output or run.path / "export"
    paths = {folder / name: content for name, content in written.items()}
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        raise UserError(
            f"{' and '.join(existing)} {'exists' if len(existing) == 1 else 'exist'} already. "
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
