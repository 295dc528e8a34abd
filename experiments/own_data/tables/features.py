"""Features and targets that the columns of a table hold."""

from collections.abc import Sequence

import numpy as np

from experiments.errors import UserError
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Feature, Target
from experiments.own_data.tables import columns
from experiments.own_data.tables.files import Table
from experiments.suggest import did_you_mean

FEATURES_AS_TARGETS = ("forecasting", "imputation", "next-token")
LISTED = 20


def feature_names(table: Table, config: DataConfig, problem: Problem) -> list[str]:
    """Returns the names of the features: in forecasting the targets, then the other inputs.

    Raises:
        UserError: a column is absent, or has two roles.
    """
    roles = {"data.id": config.id, "data.time": config.time}
    taken = {name: key for key, name in roles.items() if name is not None}
    first = config.target if problem in FEATURES_AS_TARGETS else []
    hidden = set(taken) | set(config.target)
    others = config.inputs
    if others is None:
        others = [name for name in table.cells.column_names if name not in hidden]
    named = [*first, *others, *config.known_ahead]
    for key, listed in (
        ("data.target", first),
        ("data.inputs", others),
        ("data.known_ahead", config.known_ahead),
        ("data.categories", config.categories),
    ):
        for name in listed:
            if key != "data.categories" or name not in config.target:
                check_column(table, name, key)
            if name in taken and key != "data.categories":
                raise UserError(f"{key} names {name}, but {taken[name]} names it, too.")
            if key in ("data.inputs", "data.known_ahead") and name in config.target:
                raise UserError(
                    f"{key} names {name}, but it is a target: it would be known beforehand."
                )
    if problem == "forecasting" and not config.target:
        raise UserError("data.target is empty, but should name the columns to forecast.")
    names = list(dict.fromkeys(named))
    if not names:
        raise UserError(
            f"{table}: there is no column to predict from; there are only "
            f"{', '.join(table.cells.column_names)}."
        )
    return names


def check_column(table: Table, name: str, key: str) -> None:
    known = table.cells.column_names
    if name in known:
        return
    listed = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
    message = f"{table} has no column {name!r}, which {key} names. Its columns are {listed}."
    if len(known) == 1 and any(separator in known[0] for separator in ",;\t|"):
        message += " The cells seem to have another separator: see data.separator."
    raise UserError(message + did_you_mean(name, known))


def only_target(config: DataConfig, problem: Problem) -> str:
    if len(config.target) != 1:
        raise UserError(
            f"data.target is {config.target}, but should be one column: problem is {problem}."
        )
    return config.target[0]


def is_category(table: Table, config: DataConfig, name: str) -> bool:
    """Whether a column names categories: by the config, or because no cell is a number."""
    if name in config.categories:
        return True
    if not columns.is_text(table, name):
        return False
    is_missing = columns.missing_mask(table, name)
    return not (is_missing.all() or columns.number_mask(table, name, config.decimal).any())


def read_features(
    table: Table, config: DataConfig, names: Sequence[str], *, targets: bool
) -> tuple[np.ndarray, tuple[Feature, ...]]:
    """Returns the values of the columns, (rows, F), and what they are.

    Args:
        table: the rows.
        config: what their columns mean.
        names: those of the columns.
        targets: whether those that are predicted must vary; the new part of a series need not.

    Raises:
        UserError: a column is absent or does not fit; names it, and the row.
    """
    values = np.empty((len(table.lines), len(names)))
    features = []
    for place, name in enumerate(names):
        is_known = name in config.known_ahead
        if name not in config.target and is_category(table, config, name):
            values[:, place], found = columns.categories(table, name, config.decimal)
            features.append(Feature(name, found, is_known))
            continue
        values[:, place] = columns.numbers(table, name, config.decimal)
        features.append(Feature(name, None, is_known))
        if name in config.target:
            _check_present(table, name, values[:, place])
            if targets:
                _check_varies(table, name, values[:, place])
    return values, tuple(features)


def read_target(table: Table, config: DataConfig, problem: Problem) -> tuple[Target, np.ndarray]:
    """Returns the target, and its value in each row."""
    name = only_target(config, problem)
    if columns.missing_mask(table, name).all():
        raise UserError(f"{table}: {name} is missing in every row, but it is the target.")
    named = problem == "classification" or is_category(table, config, name)
    if problem == "regression" and named:
        row = int((~columns.missing_mask(table, name)).argmax())
        raise UserError(
            f"{table.where(row)}: {name} is {str(table.cells[name][row])!r}, but the target of a "
            "regression should be a number. Is the problem a classification?"
        )
    if not named:
        values = columns.numbers(table, name, config.decimal)
        _check_present(table, name, values)
        _check_varies(table, name, values)
        return Target(name), values
    indices, classes = columns.categories(table, name, config.decimal)
    if len(classes) == 1:
        raise UserError(
            f"{table}: {name} is {classes[0]!r} in every row, but a target should have two classes "
            "or more."
        )
    return Target(name, classes), indices


def target_of_sequence(
    table: Table, target: Target, values: np.ndarray, rows: np.ndarray, label: str
) -> float:
    """Returns the target of a sequence, which all rows that have one should share."""
    present = rows[~np.isnan(values[rows])]
    if not len(present):
        raise UserError(
            f"{table.where(rows[0])}: {target.name} is missing in all rows of the sequence "
            f"{label}, but it is the target."
        )
    differing = values[present] != values[present[0]]
    if differing.any():
        other = present[int(differing.argmax())]
        cells = table.cells[target.name]
        raise UserError(
            f"{table.where(other)}: {target.name} is {str(cells[other])!r}, but "
            f"{str(cells[present[0]])!r} in {table.where(present[0])}, of the same sequence "
            f"{label}. A target of sequences should be the same in all rows; if each step has its "
            "own, the problem is labelling."
        )
    return float(values[present[0]])


def _check_present(table: Table, name: str, values: np.ndarray) -> None:
    if np.isnan(values).all():
        raise UserError(f"{table}: {name} is missing in every row, but it is the target.")


def _check_varies(table: Table, name: str, values: np.ndarray) -> None:
    present = values[~np.isnan(values)]
    if present.min() == present.max():
        raise UserError(
            f"{table}: {name} is {present[0]:g} in every row, but a target should vary."
        )
