"""What a table is likely to hold: its columns' roles, the problem, and a config for it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow.compute

from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings
from experiments.own_data.tables import columns, indexing, seasons, targets
from experiments.own_data.tables.files import Table, read_tables
from experiments.own_data.tables.roles import Roles, mostly_numbers
from experiments.own_data.tables.sequences import SPLITS, sequences

# Its functions are made when it is imported.
pc: Any = pyarrow.compute

# The default fraction of the training part.
TRAIN = 0.7
DESCRIBED = 30
# Of imputation.
WINDOW, GAP = 48, 12


def propose(path: str, chosen: Mapping[str, Any]) -> Proposal:
    """Proposes a config for a table; see :class:`experiments.own_data.sources.Source`."""
    data = chosen_data(chosen)
    roles = Roles({"path": path, **data}, {f"data.{key}": "as you chose" for key in data})
    table = read_tables(path, data.get("separator"))
    for key in ("id", "time"):
        _check_chosen(table, data, key)
    _decide_decimal(table, roles)
    indexing.decide_time(table, roles)
    indexing.decide_id(table, roles)
    keys = indexing.sequence_keys(table, roles)
    indexing.decide_counter(table, roles, keys)
    problem, why = targets.decide_target(table, roles, keys, chosen.get("problem"))
    targets.decide_inputs(table, roles, problem)
    if problem in ("forecasting", "imputation"):
        _decide_step(table, roles, keys)
    _decide_split(table, roles, keys, problem)
    kept = {key: value for key, value in roles.data.items() if value is not None}
    dataset = sequences(table, DataConfig(**kept), problem, targets=True)
    reasons = {"problem": why, **roles.reasons}
    settings: dict[str, Any] = {}
    if problem in ("forecasting", "imputation"):
        _decide_scale(dataset, kept, reasons)
    if problem == "forecasting":
        settings = seasons.decide(dataset, kept, chosen, reasons)
    elif problem == "imputation":
        longest = max(len(inputs) for inputs in dataset.inputs)
        settings = {"window": min(longest, WINDOW), "model.bidirectional": True}
        reasons["model.bidirectional"] = "what comes after a gap is known, too"
    settings |= training_settings(_count_examples(dataset, problem, settings))
    settings |= chosen_settings(chosen)
    reasons["data"] = f"Columns: {'; '.join(_described(table, roles))}"
    reasons["data.path"] = _summary(table, dataset)
    return Proposal(problem, kept, settings, reasons)


def _check_chosen(table: Table, data: Mapping[str, Any], key: str) -> None:
    name = data.get(key)
    if name is not None and name not in table.cells.column_names:
        # Says what is there and what may be meant.
        sequences(table, DataConfig(**data, path=""), "imputation", targets=False)


def _decide_decimal(table: Table, roles: Roles) -> None:
    names = [name for name in table.cells.column_names if columns.is_text(table, name)]
    for name in names:
        with_point = columns.number_mask(table, name, ".")
        with_comma = columns.number_mask(table, name, ",")
        if with_comma.sum() > with_point.sum():
            row = int((with_comma & ~with_point).argmax())
            cell = table.cells[name][row]
            return roles.decide("decimal", ",", f"{name} is written as {cell}")
    return None


def _decide_step(table: Table, roles: Roles, keys: np.ndarray) -> None:
    time = roles.data.get("time")
    if time is None or "step" in roles.data:
        return
    times = columns.times(table, time)
    order = np.lexsort((times, keys))
    steps = np.diff(times[order])[np.diff(keys[order]) == 0]
    if not len(steps) or steps.min() <= np.zeros(1, steps.dtype)[0]:
        return
    step, reason = seasons.step_of(times, keys, steps)
    if step is None:
        roles.reasons["data.step"] = reason
    else:
        roles.decide("step", step, reason)


def _decide_split(table: Table, roles: Roles, keys: np.ndarray, problem: Problem) -> None:
    stems = [path.name.partition(".")[0].lower() for path in table.paths]
    said = {
        split for split, words in SPLITS.items() for stem in stems if any(w in stem for w in words)
    }
    if len(said) == len(SPLITS):
        return roles.decide("split", "file", "the names of the files say it")
    count = len(np.unique(keys))
    if problem == "forecasting" or (count < 10 and problem in ("imputation", "labelling")):
        reason = "the last rows of each sequence are for the test, those before for validation"
        return roles.decide("split", "time", reason)
    reason = f"whole sequences, of {count:,}, sampled at random, are for validation and test"
    return roles.decide("split", "sequence", reason)


def _decide_scale(dataset: Dataset, data: dict[str, Any], reasons: dict[str, str]) -> None:
    if "scale" in data or len(dataset.names) < 2:
        return
    with np.errstate(invalid="ignore"):
        target = [inputs[:, 0] for inputs in dataset.inputs if np.isfinite(inputs[:, 0]).sum() > 1]
        means = np.array([np.nanmean(values) for values in target])
        deviations = np.array([np.nanstd(values) for values in target])
    if len(means) and means.std() > 2 * np.median(deviations):
        data["scale"] = "sequence"
        reasons["data.scale"] = (
            f"the sequences' levels differ, from {means.min():g} to {means.max():g}"
        )


def _summary(table: Table, dataset: Dataset) -> str:
    lengths = [len(inputs) for inputs in dataset.inputs]
    spread = f"{min(lengths):,}" + (f" to {max(lengths):,}" if min(lengths) < max(lengths) else "")
    one = "sequence" if len(lengths) == 1 else "sequences"
    files = f" in {len(table.paths)} files" if len(table.paths) > 1 else ""
    rows = f"{len(table.lines):,} rows{files}: {len(lengths):,} {one} of {spread} steps"
    return ". ".join([rows, *(note.rstrip(".") for note in dataset.notes)])


def _count_examples(dataset: Dataset, problem: Problem, settings: Mapping[str, Any]) -> int:
    """Returns about how many training examples there are: sequences, horizons or gaps."""
    lengths = [len(inputs) for inputs in dataset.inputs]
    steps = {"forecasting": settings.get("horizon"), "imputation": GAP}.get(problem)
    count = len(lengths) if steps is None else sum(lengths) / steps
    return max(1, int(TRAIN * count))


def _described(table: Table, roles: Roles) -> Iterable[str]:
    """Yields what each column holds."""
    decimal = roles.data.get("decimal", ".")
    names = table.cells.column_names
    for name in names[:DESCRIBED]:
        role = next((key for key in ("id", "time") if roles.data.get(key) == name), None)
        if name in roles.data.get("target", []):
            role = "target"
        present = table.cells[name].drop_null()
        count = pc.count_distinct(present).as_py()
        if role == "time" or columns.looks_like_times(table, name):
            kind = "times"
        elif mostly_numbers(table, name, roles) and role != "id":
            values = columns.numbers(table, name, decimal)
            kind = f"numbers from {np.nanmin(values):g} to {np.nanmax(values):g}"
        else:
            kind = f"{count:,} different {'value' if count == 1 else 'values'}"
        missing = columns.missing_mask(table, name).mean()
        share = f", {missing:.1%} missing" if missing else ""
        yield f"{name} ({f'{role}, ' if role else ''}{kind}{share})"
    if len(names) > DESCRIBED:
        yield f"and {len(names) - DESCRIBED:,} more"
