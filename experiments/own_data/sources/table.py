"""Tables: .csv, .tsv, .txt and Parquet files, with a row per time, and per sequence and time."""

from collections.abc import Mapping
from typing import Any

from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sources import Proposal
from experiments.own_data.tables import files
from experiments.own_data.tables.guesses import propose
from experiments.own_data.tables.sequences import sequences


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    return propose(path, chosen)


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    table = files.read_tables(config.path, config.separator)
    return sequences(table, config, problem, targets=targets)
