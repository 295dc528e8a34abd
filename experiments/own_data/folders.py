"""Folders in which each file is a sequence, with its class or number in a table or in its path."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

from experiments.errors import UserError
from experiments.files import read_bytes

LABELS = "labels.csv"
FILE, SPLIT = "file", "split"
CLASS = "class"
LARGEST_TABLE = 64 * 2**20
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class LabelledFile(NamedTuple):
    """A file.

    Attributes:
        path: where it is.
        name: its path within the folder.
        label: what is said of it; None if nothing is.
        split: "train", "validation" or "test"; None if nothing is said.
    """

    path: Path
    name: str
    label: str | None
    split: str | None


def labelled_files(
    path: str, suffixes: tuple[str, ...], target: list[str], *, targets: bool
) -> list[LabelledFile]:
    """Returns the files in a folder with these suffixes, sorted by name; or one file.

    What is said of them is in `labels.csv`, with a column `file` and optionally `split`, or else in
    the names of their sub-folders. Folders above these may be called train, validation and test.

    Args:
        path: the folder.
        suffixes: of the files, in lower case.
        target: the column of the table; empty for the first other one.
        targets: whether something must be said of each file.

    Raises:
        UserError: there are no files, or nothing is said of one.
    """
    folder = Path(path)
    if folder.is_file():
        return [LabelledFile(folder, folder.name, None, None)]
    if not folder.is_dir():
        raise UserError(f"There is no folder {path}.")
    found = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.name.lower().endswith(suffixes) and file.is_file() and file.name[0] != "."
    }
    if not found:
        raise UserError(f"{path} holds no file {' or '.join(suffixes)}.")
    if (folder / LABELS).exists() and targets:
        return _by_table(folder / LABELS, found, target)
    files = [_by_path(name, file) for name, file in found.items()]
    unlabelled = [file.name for file in files if file.label is None]
    if unlabelled and targets:
        raise UserError(
            f"{path}: nothing is said of {unlabelled[0]}. Move the files into one sub-folder for "
            f"each class, or write a table {folder / LABELS} with the columns file and class."
        )
    if any(file.split is None for file in files):
        # A folder of that name among classes is a class.
        files = [file._replace(split=None) for file in files]
    return files


def class_column(path: str, target: list[str]) -> str:
    """Returns the name of what is predicted: a column of the table, or `class`."""
    table = Path(path) / LABELS
    if target:
        return target[0]
    return _target_column(table, _rows(table)[0], []) if table.exists() else CLASS


def _by_path(name: str, file: Path) -> LabelledFile:
    *folders, _ = name.split("/")
    split = SPLIT_NAMES.get(folders[0].lower()) if len(folders) > 1 else None
    label = "/".join(folders[1:] if split else folders) or None
    return LabelledFile(file, name, label, split)


def _by_table(table: Path, found: dict[str, Path], target: list[str]) -> list[LabelledFile]:
    header, *rows = _rows(table)
    column = _target_column(table, header, target)
    at = {name: index for index, name in enumerate(header)}
    labels: dict[str, tuple[str, str | None]] = {}
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(
                f"{table}, line {line} has {len(row)} values, but should have {len(header)}."
            )
        name, label = row[at[FILE]], row[at[column]].strip()
        if name not in found:
            raise UserError(f"{table}, line {line}: there is no file {name} in {table.parent}.")
        if name in labels:
            raise UserError(f"{table}, line {line}: the file {name} is named a second time.")
        if not label:
            raise UserError(f"{table}, line {line}: {column} is empty.")
        split = row[at[SPLIT]].strip() if SPLIT in at else None
        if split is not None and split not in SPLIT_NAMES:
            raise UserError(
                f"{table}, line {line}: {SPLIT} is {split!r}, but should be train, validation or "
                "test."
            )
        labels[name] = (label, None if split is None else SPLIT_NAMES[split])
    missing = sorted(found.keys() - labels)
    if missing:
        raise UserError(f"{table} does not say what {missing[0]} is.")
    return [LabelledFile(found[name], name, *labels[name]) for name in found]


def _target_column(table: Path, header: list[str], target: list[str]) -> str:
    if FILE not in header:
        raise UserError(f"{table} has no column {FILE}; its columns are {', '.join(header)}.")
    others = [name for name in header if name not in (FILE, SPLIT)]
    column = target[0] if target else others[0] if others else None
    if column not in others:
        raise UserError(
            f"{table} has no column {column or 'besides ' + FILE}; its columns are "
            f"{', '.join(header)}."
        )
    return column


def _rows(table: Path) -> list[list[str]]:
    try:
        text = read_bytes(table, LARGEST_TABLE).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is not a table that can be read: {error}.") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise UserError(f"{table} has no rows.")
    return rows
