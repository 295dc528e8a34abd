"""Data sets of Hugging Face: by name, or a folder written by `datasets`."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.own_data.arrays.guesses import propose
from experiments.own_data.arrays.sequences import NAMES, SPLIT, TARGET, dataset_of
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature
from experiments.own_data.folders import SPLIT_NAMES
from experiments.own_data.sizes import token_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings

# Not every environment that checks types has it.
datasets: Any = importlib.import_module("datasets")

MAX_ROWS = 1_000_000
TARGET_NAMES = ("label", "labels", "target", "class", TARGET)
FOLDER_FILES = ("dataset_dict.json", "state.json")
"""Files of folders that `datasets` writes."""


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    parts = load(path)
    features = next(iter(parts.values())).features
    texts = [name for name, kind in features.items() if _is_text(kind)]
    target = list(chosen.get("data.target", [n for n in TARGET_NAMES if n in features][:1]))
    if texts and not target:
        problem: Any = "next-token"
        chosen = {"data.inputs": texts[:1], "problem": problem, **chosen}
    chosen = {"data.target": target, **chosen}
    config = DataConfig(path=path, **chosen_data(chosen))
    arrays = _arrays(parts, config, targets=True)
    if chosen.get("problem") == "next-token" and isinstance(arrays, Dataset):
        return _propose_text(arrays, chosen)
    assert isinstance(arrays, dict)
    inputs = [name for name in arrays if name not in (*target, SPLIT, NAMES)]
    proposal = propose(path, {"data.inputs": inputs, **chosen}, arrays)
    return proposal


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    arrays = _arrays(load(config.path), config, targets=targets)
    if isinstance(arrays, Dataset):
        return arrays
    return dataset_of(arrays, config, problem, targets=targets)


def load(path: str) -> dict[str, Any]:
    """Returns the parts of a data set by name.

    Raises:
        UserError: there is none, it cannot be loaded, or it is too large.
    """
    try:
        if any((Path(path) / name).is_file() for name in FOLDER_FILES):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path)
    # The library raises errors of many types, of networks and file formats too.
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"{path} cannot be loaded by datasets: {first}.") from None
    parts = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    rows = sum(part.num_rows for part in parts.values())
    if not rows:
        raise UserError(f"{path} has no rows.")
    if rows > MAX_ROWS:
        raise UserError(
            f"{path} has {rows:,} rows, but at most {MAX_ROWS:,} are read into memory. A function "
            "can return parts of it: data.format is function then."
        )
    return parts


def _arrays(
    parts: Mapping[str, Any], config: DataConfig, *, targets: bool
) -> dict[str, Any] | Dataset:
    """Returns the columns as arrays, or texts as a data set of characters."""
    kinds = next(iter(parts.values())).features
    target = config.target[0] if config.target else None
    names = config.inputs or [
        name for name, kind in kinds.items() if name != target and _is_sequence(kind)
    ]
    wanted = [*names, *([target] if target and targets else [])]
    for name in wanted:
        if name not in kinds:
            raise UserError(
                f"{config.path} has no column {name}; its columns are {', '.join(kinds)}."
            )
    if not names:
        raise UserError(
            f"{config.path} has no column of sequences of numbers; its columns are "
            f"{', '.join(kinds)}. Rows of single numbers are a table: save them as Parquet."
        )
    splits = [
        (SPLIT_NAMES[part], rows)
        for part, rows in parts.items()
        if part in SPLIT_NAMES or _unknown(part, parts, config.path)
    ]
    of_split = [part for part, rows in splits for _ in range(rows.num_rows)]
    if _is_text(kinds[names[0]]):
        texts = [text for _, rows in splits for text in rows[names[0]]]
        return _of_texts(texts, of_split, len(parts), names[0], config.path)
    arrays: dict[str, Any] = {}
    for name in names:
        arrays[name] = [np.asarray(value) for _, rows in splits for value in rows[name]]
    if target and targets:
        values = [value for _, rows in splits for value in rows[target]]
        labels = getattr(kinds[target], "names", None)
        if labels is not None:
            values = [labels[value] if value >= 0 else None for value in values]
        missing = next((i for i, value in enumerate(values) if value is None), None)
        if missing is not None:
            raise UserError(f"{config.path}: {target} is missing in row {missing}.")
        arrays[target] = list(values) if isinstance(values[0], list) else np.asarray(values)
        if isinstance(values[0], list):
            arrays[target] = [np.asarray(value) for value in values]
    if len(parts) > 1:
        arrays[SPLIT] = np.array(of_split)
    return arrays


def _of_texts(texts: list[str], of_split: list[str], parts: int, column: str, path: str) -> Dataset:
    given = [(text, part) for text, part in zip(texts, of_split, strict=True) if text]
    if not given:
        raise UserError(f"{path}: {column} has no text.")
    symbols = sorted(set().union(*(text for text, _ in given)))
    points = np.array([ord(symbol) for symbol in symbols])
    inputs = tuple(
        np.searchsorted(points, np.frombuffer(text.encode("utf-32-le"), np.uint32)).astype(
            np.float32
        )[:, None]
        for text, _ in given
    )
    return Dataset(
        features=(Feature("character", tuple(symbols)),),
        names=tuple(map(str, range(len(given)))),
        inputs=inputs,
        split=tuple(part for _, part in given) if parts > 1 else None,
        notes=(f"{len(given):,} texts of the column {column} of {path}.",),
    )


def _propose_text(dataset: Dataset, chosen: Mapping[str, Any]) -> Proposal:
    characters = sum(map(len, dataset.inputs))
    data = chosen_data(chosen)
    data.setdefault("split", "file" if dataset.split else "sequence")
    settings = chosen_settings(chosen)
    return Proposal(
        "next-token",
        data,
        {**token_settings(characters), **settings},
        {"data.path": f"{len(dataset.names):,} texts of {characters:,} characters"},
    )


def _unknown(part: str, parts: Mapping[str, Any], path: str) -> bool:
    raise UserError(
        f"{path} has the parts {', '.join(parts)}; {part} is neither train, validation nor test."
    )


def _is_sequence(kind: Any) -> bool:
    return hasattr(kind, "feature") or "Array" in type(kind).__name__


def _is_text(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in ("string", "large_string")
