"""Texts: .txt files, or a folder of them, in UTF-8, whose steps are characters."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError
from experiments.files import read_bytes
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset, Feature
from experiments.own_data.sizes import token_settings
from experiments.own_data.sources import Proposal, chosen_data, chosen_settings

SUFFIXES = (".txt", ".md", ".txt.gz")
LARGEST = 64 * 2**20
"""Bytes of all files."""
SHORTEST = 100
"""Characters from which on a model can be trained."""


def inspect(path: str, chosen: Mapping[str, Any], /) -> Proposal:
    """See :class:`experiments.own_data.sources.Source`."""
    _check_problem(chosen.get("problem", "next-token"), path)
    texts = _read(Path(path))
    characters = sum(map(len, texts.values()))
    if characters < SHORTEST:
        raise UserError(f"{path} has {characters} characters, but should have {SHORTEST} or more.")
    many = len(texts) > 20
    data = chosen_data(chosen)
    data.setdefault("split", "sequence" if many else "time")
    # One in ten is enough to tell models apart.
    data |= {"validation": 0.05, "test": 0.05} if characters > 10**5 else {}
    settings = chosen_settings(chosen)
    how = "whole texts are divided" if many else "the end of each text is for validation and test"
    return Proposal(
        "next-token",
        data,
        {**token_settings(characters), **settings},
        {
            "problem": "a text is predicted from what is before it, character by character; "
            "vocabulary: 1000 would predict pieces of words",
            "data.path": f"{len(texts):,} texts of {characters:,} characters",
            "data.split": how,
        },
    )


def read(config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
    """See :class:`experiments.own_data.sources.Source`."""
    _check_problem(problem, config.path)
    texts = _read(Path(config.path))
    symbols = sorted(set().union(*texts.values()))
    code_points = np.array([ord(symbol) for symbol in symbols])
    inputs = []
    for text in texts.values():
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        inputs.append(np.searchsorted(code_points, points).astype(np.float32)[:, None])
    del targets
    characters = sum(map(len, texts.values()))
    return Dataset(
        features=(Feature("character", tuple(symbols)),),
        names=tuple(texts),
        inputs=tuple(inputs),
        notes=(f"{len(texts):,} texts of {characters:,} characters in {config.path}.",),
    )


def _check_problem(problem: Problem, path: str) -> None:
    if problem != "next-token":
        raise UserError(
            f"problem is {problem}, but {path} is a text: its problem is next-token. Rows of texts "
            "and classes are no text file, but a table."
        )


def _read(path: Path) -> dict[str, str]:
    """Returns the texts by name."""
    if path.is_dir():
        files = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.name.lower().endswith(SUFFIXES) and file.is_file() and file.name[0] != "."
        }
        if not files:
            raise UserError(f"{path} holds no file {' or '.join(SUFFIXES)}.")
    else:
        files = {path.name: path}
    texts, left = {}, LARGEST
    for name, file in files.items():
        content = _content(file, left)
        left -= len(content)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{file}, line {line} is not UTF-8: the byte {content[error.start]:#04x}. Save the "
                "text as UTF-8."
            ) from None
        if "\0" in text:
            raise UserError(f"{file} has zero bytes: it is no text.")
        if not text.strip():
            raise UserError(f"{file} has no text.")
        texts[name] = text.replace("\r\n", "\n")
    return texts


def _content(file: Path, largest: int) -> bytes:
    if not file.name.lower().endswith(".gz"):
        return read_bytes(file, largest)
    try:
        with gzip.open(file) as stream:
            content = stream.read(largest + 1)
    except (OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    if len(content) > largest:
        raise UserError(f"{file} is larger than {largest / 2**20:g} MiB.")
    return content
