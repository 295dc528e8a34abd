"""Predictions as a .csv file."""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.files import write_atomically
from experiments.own_data.config import DataConfig
from experiments.own_data.dataset import Dataset

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.own_data.model import Predictions


def write_predictions(
    config: DataConfig, dataset: Dataset, predictions: "Predictions", output: Path
) -> None:
    """Writes a row for each sequence, or for each of its steps with the step's number or time.

    Args:
        config: names the columns of the sequence and the time.
        dataset: the sequences.
        predictions: what is predicted of them.
        output: the file.
    """
    first = next(iter(predictions.columns.values()))
    counts = [len(values) for values in first]
    table: dict[str, Any] = {config.id or "sequence": np.repeat(dataset.names, counts)}
    if predictions.rows != "sequence":
        times = predictions.times or [np.arange(count) for count in counts]
        table["step" if predictions.times is None else config.time or "time"] = np.concatenate(
            times
        )
    for name, values in predictions.columns.items():
        table[name] = np.concatenate(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_written(cell) for cell in row] for row in zip(*table.values(), strict=True))
    write_atomically(output, text.getvalue())


def _written(value: Any) -> str:
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[us]").item())
    return "" if value != value else str(value)
