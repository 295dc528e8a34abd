"""The search space of a config: its checks, and the grid of its points."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config import ExperimentConfig, Range
from experiments.errors import UserError
from experiments.runs.config_loading import with_values

Space = Mapping[str, Range]


def check_space(config: ExperimentConfig, path: Path) -> None:
    """Checks that a config has a search space with valid values.

    Raises:
        UserError: it has none, or a key or value is invalid.
    """
    if not config.sweep:
        raise UserError(f"{path} has no ranges: the key sweep is missing.")
    for key, of_key in config.sweep.items():
        for value in of_key.values():
            with_values(config, {key: value}, where="sweep")


def grid(space: Space) -> list[dict[str, Any]] | None:
    """Returns all points of a space in which every key has choices, else None."""
    choices = [of_key.choices for of_key in space.values() if of_key.choices is not None]
    if len(choices) < len(space):
        return None
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]
