"""Sizes of other cells with equally many parameters, for a fair comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.build import build_task
from experiments.config import ExperimentConfig
from experiments.runs.config_loading import with_values
from experiments.runs.run import num_parameters


def with_cell(config: ExperimentConfig, cell: str, data_dir: Path) -> ExperimentConfig:
    """Returns the config with another cell, of the size with the nearest number of parameters.

    The number is that of the whole network. It is quadratic in the hidden size, so three sizes
    determine it. The config's values of ``cells`` are applied, also those of its own cell.

    Raises:
        UserError: the task does not support the cell, or a value of ``cells`` is invalid.
    """
    overrides: Mapping[str, Mapping[str, Any]] = {**config.cells}
    values = overrides.get(cell, {})
    config = config.model_copy(update={"cells": {}})
    if cell == config.model.cell:
        return with_values(config, values, where=f"cells.{cell}")
    other = with_values(config, {"model.cell": cell}, where=f"--cells {cell}")
    other = with_values(other, values, where=f"cells.{cell}")
    sizes = (1, 2, 3)
    counts = [count_parameters(_with_model(other, hidden_size=s), data_dir) for s in sizes]
    wanted = count_parameters(config, data_dir)
    square = (counts[2] - 2 * counts[1] + counts[0]) / 2
    linear = counts[1] - counts[0] - 3 * square
    constant = counts[0] - linear - square
    root = max(np.roots([square, linear, constant - wanted]).real)

    def distance(size: int) -> float:
        return abs(square * size**2 + linear * size + constant - wanted)

    best = min((max(1, int(root)), max(1, int(root) + 1)), key=distance)
    return _with_model(other, hidden_size=best)


def with_row(config: ExperimentConfig, name: str, data_dir: Path) -> ExperimentConfig:
    """Returns the config of a row of the table: of a cell, or of a variant of the config's own.

    Raises:
        UserError: as :func:`with_cell`.
    """
    if name not in config.variants:
        return with_cell(config.model_copy(update={"variants": {}}), name, data_dir)
    values, config = config.variants[name], config.model_copy(update={"variants": {}})
    own = with_cell(config, config.model.cell, data_dir)
    return with_values(own, values, where=f"variants.{name}")


def count_parameters(config: ExperimentConfig, data_dir: Path) -> int:
    """Returns the number of parameters of a config's network."""
    return num_parameters(jax.eval_shape(lambda: build_task(config, data_dir).params))


def _with_model(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
