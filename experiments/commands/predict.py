"""The command `predict RUN DATA -o FILE`: applies a finished run to new data of one's own."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_help
from experiments.errors import UserError
from experiments.files import check_local
from experiments.own_data.config import SequencesConfig
from experiments.own_data.model import Model
from experiments.own_data.sources import load_source
from experiments.own_data.written import write_predictions
from experiments.runs import bucket
from experiments.runs.config_loading import load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.run import restore_model
from gru_jax import training


@dataclasses.dataclass(frozen=True)
class Options:
    """Applies the best parameters of a finished run of the task `sequences` to new data.

    The data are of the same kind as those of the training, which need not exist any more. They need
    no targets. Nothing is written into the run.
    """

    run_dir: tyro.conf.Positional[Path]
    """Directory of a finished run of `train`, or its URL, gs://BUCKET/PATH."""
    data: tyro.conf.Positional[str]
    """File or folder of new data; for a model that forecasts, the series up to now."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write, .csv."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replaces a file that exists."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit code, 0.

    Raises:
        UserError: a directory without a finished run of data of one's own, or data that do not fit.
        OSError: the file cannot be written.
    """
    options = command_help.parse(
        Options, arguments, "predict", "runs/my new.csv -o predictions.csv"
    )
    if os.path.lexists(options.output) and not options.force:
        raise UserError(
            f"{options.output} exists already. Give another --output, or --force to replace it."
        )
    with bucket.read_copy(options.run_dir) as folder:
        return _predict(RunDirectory(folder), options)


def _predict(run: RunDirectory, options: Options) -> int:
    if not run.config.exists():
        raise UserError(f"There is no run in {run.path}: it holds no config.yaml.")
    config = load_config(run.config)
    if not isinstance(config, SequencesConfig):
        raise UserError(
            f"The run in {run.path} is of the task {config.task}, but should be of sequences, the "
            "task of data of your own."
        )
    source = load_source(config.data.format)
    described = config.data.model_copy(update={"path": check_local(options.data)})
    try:
        model, params = restore_model(run, config, Path())
    except training.TrainingError as error:
        raise UserError(str(error)) from None
    assert isinstance(model, Model)
    dataset = source.read(described, config.problem, targets=False)
    predictions = model.predict(params, dataset)
    write_predictions(described, dataset, predictions, options.output)
    rows = sum(map(len, next(iter(predictions.columns.values()))))
    one = "sequence" if len(dataset.names) == 1 else "sequences"
    print(f"{options.output}: {rows:,} rows for {len(dataset.names):,} {one}.")
    return 0
