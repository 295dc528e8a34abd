"""A function of one's own, `my_package.my_data:load`, found from the working directory.

It takes no arguments, or the keyword `targets`, and returns a
:class:`experiments.own_data.dataset.Dataset`, or a dict of arrays as in `arrays/sequences.py`.
"""

import importlib
import inspect as signatures
import os
import sys
from collections.abc import Mapping
from typing import Any

from experiments.errors import UserError
from experiments.own_data.arrays.guesses import propose
from experiments.own_data.arrays.sequences import dataset_of
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    loaded = call(path, targets=True)
    if not isinstance(loaded, Dataset):
        return propose(path, chosen, loaded)
    settings = chosen_settings(chosen)
    data = chosen_data(chosen)
    return Proposal(
        chosen.get("problem", _problem_of(loaded, path)),
        {"split": "file" if loaded.split else "sequence", **data},
        {**training_settings(len(loaded.names)), **settings},
        {"data.path": f"{len(loaded.names):,} sequences"},
    )


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    loaded = call(config.path, targets=targets)
    if isinstance(loaded, Dataset):
        return loaded
    return dataset_of(loaded, config, problem, targets=targets)


def call(path: str, *, targets: bool) -> Dataset | dict[str, Any]:
    """Calls the function.

    Raises:
        UserError: there is none, or it returns something else.
    """
    module_name, _, name = path.partition(":")
    if not name or not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise UserError(f"data.path is {path}, but should be like my_package.my_data:load.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that it imports may be what is missing.
        missing = error.name or module_name
        raise UserError(
            f"{path}: there is no module {missing} in {os.getcwd()} or among the installed ones."
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path}: {module_name} has no function {name}.")
    accepted = signatures.signature(function).parameters
    options = {"targets": targets} if "targets" in accepted else {}
    loaded = function(**options)
    if not isinstance(loaded, Dataset | dict):
        raise UserError(
            f"{path} returned {type(loaded).__name__}, but should return a dict of arrays or a "
            "Dataset."
        )
    return loaded


def _problem_of(dataset: Dataset, path: str) -> Problem:
    if dataset.target is None:
        raise UserError(f"{path} returned a Dataset without a target. Give --problem.")
    if isinstance(dataset.targets, tuple):
        return "labelling"
    return "regression" if dataset.target.classes is None else "classification"
