"""Tables: .csv, .tsv, .txt and Parquet files, with a row per time, and per sequence and time."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sources import Proposal
from experiments.own_data.tables import files
from experiments.own_data.tables.guesses import propose
from experiments.own_data.tables.sequences import sequences
from experiments.own_data.written import write_predictions_csv

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.own_data.model import Predictions


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    return propose(path, chosen)


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    table = files.read_tables(config.path, config.separator)
    return sequences(table, config, problem, targets=targets)


def write_predictions(
    config: DataConfig, dataset: Dataset, predictions: "Predictions", output: Path, /
) -> None:
    """Writes a .csv file with the columns of the sequence, the time, and the predictions."""
    names = {"sequence": config.id or "sequence", "time": config.time or "time"}
    write_predictions_csv(dataset, predictions, output, **names)
