"""What a table is likely to hold: its columns' roles, the problem, and a config for it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings
from experiments.own_data.tables import columns, seasons
from experiments.own_data.tables.files import Table, read_tables
from experiments.own_data.tables.roles import (
    ID_NAMES,
    Roles,
    first,
    is_mixed,
    is_number,
    is_shared,
    is_whole,
    looks_like_id,
    mostly_numbers,
    names_classes,
    rank,
)
from experiments.own_data.tables.sequences import FEATURES_AS_TARGETS, SPLITS, sequences

# Its functions are made when it is imported.
pc: Any = pyarrow.compute

TIME_NAMES = ("time", "date", "datetime", "timestamp", "ds", "t", "step", "ts", "day", "year")
UNNAMED = "the last column that may be"
TARGET_NAMES = ("target", "y", "label", "class", "value", "output", "ot")
# A text column with more of them is left out.
MOST_CATEGORIES = 50
# A column of numbers with more of them is no class.
MOST_CLASSES = 20
# Sequences of a class from which on a whole number is taken for one.
FEWEST_PER_CLASS = 10
# The share of missing values from which a column is left out.
MOSTLY_MISSING = 0.95
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
    _decide_time(table, roles)
    _decide_id(table, roles)
    keys = _keys(table, roles)
    _decide_counter(table, roles, keys)
    problem, why = _decide_target(table, roles, keys, chosen.get("problem"))
    _decide_inputs(table, roles, problem)
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


def _decide_time(table: Table, roles: Roles) -> None:
    if "time" in roles.data:
        return
    taken = {roles.data.get("id"), *roles.data.get("target", [])}
    free = [name for name in table.cells.column_names if name not in taken]
    written = [name for name in free if columns.looks_like_times(table, name)]
    if written:
        name = min(written, key=lambda name: rank(name, TIME_NAMES))
        return roles.decide("time", name, f"its cells are times such as {first(table, name)}")
    counted = [
        name for name in free if rank(name, TIME_NAMES) < len(TIME_NAMES) and is_number(table, name)
    ]
    for name in sorted(counted, key=lambda name: rank(name, TIME_NAMES)):
        values = columns.numbers(table, name, roles.data.get("decimal", "."))
        if not np.isnan(values).any() and len(np.unique(values)) > 2:
            return roles.decide("time", name, "its name, and its cells are numbers")
    roles.reasons["data.time"] = "no column holds times: rows are in the order of the file"
    return None


def _decide_id(table: Table, roles: Roles) -> None:
    if "id" in roles.data:
        return
    taken = {roles.data.get("time"), *roles.data.get("target", [])}
    free = [name for name in table.cells.column_names if name not in taken]
    named = sorted(
        (name for name in free if looks_like_id(name)), key=lambda name: rank(name, ID_NAMES)
    )
    time = roles.data.get("time")
    times = None if time is None else columns.times(table, time)
    if times is not None and len(np.unique(times)) < len(times):
        texts = [
            name for name in free if columns.is_text(table, name) and not is_number(table, name)
        ]
        whole = [name for name in free if is_whole(table, name, roles)]
        for name in dict.fromkeys([*named, *texts, *whole]):
            keys, found = pd.factorize(columns.texts(table, name))
            pairs = pd.DataFrame({"key": keys, "time": times})
            if len(found) < len(keys) and not pairs.duplicated().any():
                reason = f"each time of {time} occurs once for each of its {len(found):,} values"
                return roles.decide("id", name, reason)
    for name in named:
        count = len(table.cells[name].unique())
        if 1 < count <= len(table.lines) / 2 and not columns.missing_mask(table, name).any():
            return roles.decide("id", name, f"its name; it has {count:,} values")
    if time is None and free and _is_in_blocks(table, free[0], roles):
        count = len(table.cells[free[0]].unique())
        reason = f"its {count:,} values are in blocks of rows, and nothing else is a time"
        return roles.decide("id", free[0], reason)
    one = "each file is a sequence" if len(table.paths) > 1 else "all rows are one sequence"
    roles.reasons["data.id"] = f"no column seems to name sequences: {one}"
    return None


def _is_in_blocks(table: Table, name: str, roles: Roles) -> bool:
    """Whether each value of a column is in one run of two rows or more."""
    if columns.missing_mask(table, name).any():
        return False
    if is_number(table, name) and not is_whole(table, name, roles):
        return False
    keys, found = pd.factorize(columns.texts(table, name))
    runs = 1 + int(np.count_nonzero(np.diff(keys)))
    return 1 < len(found) == runs and bool(np.bincount(keys).min() > 1)


def _decide_counter(table: Table, roles: Roles, keys: np.ndarray) -> None:
    """Decides that a column that counts the rows of each sequence is the time."""
    taken = {roles.data.get("id"), *roles.data.get("target", [])}
    if "time" in roles.data or roles.data.get("id") is None:
        return
    for name in table.cells.column_names:
        if name in taken or not is_whole(table, name, roles):
            continue
        values = columns.numbers(table, name, roles.data.get("decimal", "."))
        order = np.lexsort((values, keys))
        steps = np.diff(values[order])[np.diff(keys[order]) == 0]
        if len(steps) and (steps == 1).all():
            return roles.decide("time", name, "it counts the rows of each sequence")
    return None


def _keys(table: Table, roles: Roles) -> np.ndarray:
    name = roles.data.get("id")
    return table.file if name is None else pd.factorize(columns.texts(table, name), sort=True)[0]


def _decide_target(
    table: Table, roles: Roles, keys: np.ndarray, problem: Problem | None
) -> tuple[Problem, str]:
    """Decides on the target; returns the problem and why."""
    taken = {roles.data.get("time"), roles.data.get("id")}
    taken.update(roles.data.get("known_ahead", []), roles.data.get("inputs", []))
    free = [name for name in table.cells.column_names if name not in taken]
    if problem in ("imputation", "next-token"):
        return problem, "as you chose"
    if "target" not in roles.data:
        usable = [name for name in free if not columns.missing_mask(table, name).all()]
        usable = [name for name in usable if _may_be(table, name, problem)]
        if not usable:
            raise UserError(
                f"{table}: no column can be the target of {problem or 'a problem'}. The columns "
                f"are {', '.join(table.cells.column_names)}."
            )
        name = min(reversed(usable), key=lambda name: rank(name, TARGET_NAMES))
        is_named = rank(name, TARGET_NAMES) < len(TARGET_NAMES)
        numbers = [each for each in usable if is_number(table, each)]
        is_series = problem is None and "time" in roles.data and not is_shared(table, name, keys)
        if is_series and not is_named and numbers:
            roles.decide("target", numbers[-1:], "the last column of numbers, which have times")
        else:
            roles.decide("target", [name], "its name" if is_named else UNNAMED)
    target = roles.data["target"][0]
    if target not in table.cells.column_names:
        guessed: Problem = problem or "forecasting"
        sequences(table, DataConfig(**roles.data), guessed, targets=True)
    if problem is not None:
        if problem == "labelling" and is_whole(table, target, roles):
            _decide_classes(table, roles, target)
        return problem, "as you chose"
    shared = is_shared(table, target, keys)
    count = int(pd.Series(columns.texts(table, target)).nunique())
    text = not is_number(table, target)
    few = count <= MOST_CLASSES and is_whole(table, target, roles)
    often = shared and len(np.unique(keys)) >= FEWEST_PER_CLASS * count
    is_class = text or (few and (often or names_classes(target)))
    if is_class and shared:
        return "classification", f"{target} has {count} values, the same in all rows of a sequence"
    if is_class:
        if not text:
            _decide_classes(table, roles, target)
        return "labelling", f"{target} has {count} values, which change within a sequence"
    if shared:
        return "regression", f"{target} is a number, the same in all rows of a sequence"
    return "forecasting", f"{target} is a number that changes from row to row"


def _decide_classes(table: Table, roles: Roles, target: str) -> None:
    roles.decide("categories", [target], f"the numbers of {target} name classes")


def _decide_inputs(table: Table, roles: Roles, problem: Problem) -> None:
    taken = {roles.data.get("time"), roles.data.get("id"), *roles.data.get("target", [])}
    free = [name for name in table.cells.column_names if name not in taken]
    mixed = [name for name in free if is_mixed(table, name, roles)]
    if mixed:
        named = [*roles.data.get("categories", []), *mixed]
        if "categories" not in roles.data or "data.categories" not in roles.reasons:
            roles.data.pop("categories", None)
        roles.data["categories"] = named
        roles.reasons["data.categories"] = f"{', '.join(mixed)}: most cells are no numbers"
    if "inputs" in roles.data:
        return
    left_out = {
        name: reason for name in free if (reason := _why_left_out(table, name, roles)) is not None
    }
    known = set(roles.data.get("known_ahead", []))
    kept = [name for name in free if name not in left_out or name in known]
    if not left_out:
        if kept:
            roles.reasons["data.inputs"] = "all other columns"
        return
    if not kept and problem not in FEATURES_AS_TARGETS:
        raise UserError(
            f"{table}: there is no column to predict from: "
            + "; ".join(f"{name} {reason}" for name, reason in left_out.items())
            + "."
        )
    shown = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
    roles.decide("inputs", kept, f"without what does not serve: {shown}")


def _why_left_out(table: Table, name: str, roles: Roles) -> str | None:
    missing = columns.missing_mask(table, name).mean()
    if missing > MOSTLY_MISSING:
        return f"is missing in {missing:.0%} of the rows"
    present = table.cells[name].drop_null()
    if pc.count_distinct(present).as_py() == 1:
        return f"is {first(table, name)} in every row"
    if columns.is_time(table, name) or columns.looks_like_times(table, name):
        return "holds times, too"
    if is_number(table, name) and name not in roles.data.get("categories", []):
        if name.startswith("column ") or name.lower() == "index":
            values = columns.numbers(table, name, roles.data.get("decimal", "."))
            if np.array_equal(values - values[0], np.arange(len(values))):
                return "counts the rows"
        return None
    count = pc.count_distinct(present).as_py()
    if count > MOST_CATEGORIES and not mostly_numbers(table, name, roles):
        return f"has {count:,} different texts"
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
    reason = f"whole sequences, of {count:,}, drawn at random, are for validation and test"
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


def _may_be(table: Table, name: str, problem: Problem | None) -> bool:
    if columns.looks_like_times(table, name):
        return False
    return problem in (None, "classification", "labelling") or is_number(table, name)
