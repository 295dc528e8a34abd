"""The same search for each cell, in the config's search space, chosen by validation metrics."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.commands.compare.sizes import count_parameters, with_cell
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_json
from experiments.models.recurrent import CELL_OPTIONS, cell_options
from experiments.runs.provenance import provenance
from experiments.runs.search import Search, open_study, run_trials, state, trial_records
from experiments.tables import model_name


def search_cells(
    config: ExperimentConfig,
    cells: Sequence[str],
    output: Path,
    *,
    num_trials: int,
    data_dir: Path,
    command: str,
) -> tuple[signal.Signals | None, dict[str, Any]]:
    """Searches for each cell, each trial at the size with equally many parameters.

    All trials train the config's seed. The config's values of `cells` are not used. The test split
    is not evaluated.

    Args:
        config: the experiment; `sweep` is the search space of all cells.
        cells: names of the cells.
        output: the trials of CELL are in OUTPUT/search/CELL.
        num_trials: trials per cell, where the space is no grid.
        data_dir: directory of data files.
        command: the user's command line.

    Returns:
        The signal that stopped the search, or None; and by cell, its model, number of parameters,
        chosen values and trials.

    Raises:
        UserError: no trial of a cell was completed.
        TrainingError, OSError: a file could not be read or written. The search can be resumed.
    """
    found = {}
    for cell in cells:

        def make_config(values: Mapping[str, Any], cell: str = cell) -> ExperimentConfig:
            return with_cell(config.model_copy(update={"cells": {cell: values}}), cell, data_dir)

        options = cell_options(cell)
        unused = {f"model.{name}" for name in CELL_OPTIONS if name not in options}
        search = Search(
            folder=output / "search" / cell,
            config=config,
            space={key: of_key for key, of_key in config.sweep.items() if key not in unused},
            num_trials=num_trials,
            make_config=make_config,
            data_dir=data_dir,
            command=command,
            evaluate_test=False,
        )
        with open_study(search) as study:
            print(f"Searching for {cell}")
            stop = run_trials(study, search)
            if stop is not None:
                return stop, found
            if all(state(trial) != "complete" for trial in study.get_trials()):
                raise UserError(f"No trial of {cell} was completed: see {search.folder}.")
            chosen = make_config(study.best_params)
            found[cell] = {
                "model": model_name(chosen.model),
                "parameters": count_parameters(chosen, data_dir),
                "chosen": study.best_params,
                "trials": trial_records(study),
            }
    return None, found


def write_search(
    found: Mapping[str, Any], config: ExperimentConfig, output: Path, *, name: str, command: str
) -> None:
    """Writes search.json and prints the chosen values as YAML, to be put into the config."""
    space = {key: of_key.model_dump(exclude_none=True) for key, of_key in config.sweep.items()}
    result = {"command": command, "name": name, **provenance(), "space": space, "cells": found}
    write_json(output / "search.json", result)
    cells = {cell: of_cell["chosen"] for cell, of_cell in found.items()}
    print(yaml.safe_dump({"cells": cells}, sort_keys=False).rstrip())
    print(f"Written to {output / 'search.json'}")
