"""Which size gives another cell as many parameters: the fair comparison of cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.runs.config_loading import with_values
from experiments.runs.run import num_parameters
from experiments.tasks import load_task


def with_cell(config: ExperimentConfig, cell: str, data_dir: Path) -> ExperimentConfig:
    """The config with another cell, of the size whose number of parameters is nearest.

    The number is that of the whole network. It is quadratic in the size of the layers, so three
    sizes tell it for all. What the config says of ``cells`` is put in its place.

    Raises:
        UserError: where the task does not have that cell, or where its own values will not do.
    """
    own: Mapping[str, Mapping[str, Any]] = {**config.cells}
    config = config.model_copy(update={"cells": {}})
    if cell == config.model.cell:
        if cell in own:
            raise UserError(
                f"cells.{cell}: model.cell is {cell}, whose values stand outside of cells."
            )
        return config
    other = with_values(config, {"model.cell": cell}, where=f"--cells {cell}")
    values = own.get(cell, {})
    for key in ("task", "seed", "model.cell", "model.hidden_size"):
        if key in values:
            raise UserError(f"cells.{cell}: {key} is for the command compare to choose.")
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


def count_parameters(config: ExperimentConfig, data_dir: Path) -> int:
    """How many parameters the network of a config has."""
    build = load_task(config.task).build
    return num_parameters(jax.eval_shape(lambda: build(config, data_dir).params))


def _with_model(config: ExperimentConfig, **changes: Any) -> ExperimentConfig:
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})
