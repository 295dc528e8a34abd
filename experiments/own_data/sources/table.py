"""Tables: .csv, .tsv, .txt and Parquet files, with a row per time, and per sequence and time."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from experiments.files import write_atomically
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sources import Proposal
from experiments.own_data.tables import files
from experiments.own_data.tables.guesses import propose
from experiments.own_data.tables.sequences import sequences

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
    """Writes a .csv file: the sequence's id, the time if there are times, and the predictions."""
    first = next(iter(predictions.columns.values()))
    counts = [len(values) for values in first]
    table: dict[str, Any] = {config.id or "sequence": np.repeat(dataset.names, counts)}
    if predictions.times is not None:
        table[config.time or "time"] = np.concatenate(predictions.times)
    for name, values in predictions.columns.items():
        table[name] = np.concatenate(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_written(cell) for cell in row] for row in zip(*table.values(), strict=True))
    write_atomically(output, text.getvalue())


def _written(value: Any) -> str:
    if isinstance(value, np.datetime64):
        return str(pd.Timestamp(value))
    return "" if value != value else str(value)
