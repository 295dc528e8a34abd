"""What of a table is to be predicted, from which columns, and which problem that is."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.tables import columns
from experiments.own_data.tables.features import FEATURES_AS_TARGETS
from experiments.own_data.tables.files import Table
from experiments.own_data.tables.roles import (
    Roles,
    first,
    is_mixed,
    is_number,
    is_shared,
    is_whole,
    mostly_numbers,
    names_classes,
    rank,
)
from experiments.own_data.tables.sequences import sequences

# Its functions are made when it is imported.
pc: Any = pyarrow.compute

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


def decide_target(
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


def decide_inputs(table: Table, roles: Roles, problem: Problem) -> None:
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
    roles.decide("inputs", kept, f"without columns that cannot be inputs: {shown}")


def _decide_classes(table: Table, roles: Roles, target: str) -> None:
    roles.decide("categories", [target], f"the numbers of {target} name classes")


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


def _may_be(table: Table, name: str, problem: Problem | None) -> bool:
    if columns.looks_like_times(table, name):
        return False
    return problem in (None, "classification", "labelling") or is_number(table, name)
