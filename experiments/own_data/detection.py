"""The kind of a file or folder of one's own."""

import importlib.util
import os
import re
from pathlib import Path

from experiments.errors import UserError
from experiments.own_data.config import Format

# Of files, by suffix; the first kind of which a folder holds a file is the folder's.
SUFFIXES: dict[Format, tuple[str, ...]] = {
    "table": (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq"),
    "arrays": (".npz", ".npy"),
    "audio": (".wav", ".flac"),
    "text": (".txt", ".md", ".txt.gz"),
}
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
DATA_SET = re.compile(r"[\w.-]+/[\w.-]+")


def detect_format(path: str) -> Format:
    """Returns the kind of a file, a folder, a data set of Hugging Face or a function.

    Raises:
        UserError: it is none of them.
    """
    if os.path.isdir(path):
        return _of_folder(Path(path))
    for kind, suffixes in SUFFIXES.items():
        if path.lower().endswith(suffixes):
            return kind
    if os.path.exists(path):
        known = ", ".join(suffix for of_kind in SUFFIXES.values() for suffix in of_kind)
        raise UserError(
            f"The kind of {path} is not clear from its name. Known are {known}. Give the kind "
            "with --format."
        )
    if FUNCTION.fullmatch(path):
        return "function"
    if DATA_SET.fullmatch(path) and importlib.util.find_spec("datasets") is not None:
        return "huggingface"
    raise UserError(f"There is no file or folder {path}.")


def _of_folder(path: Path) -> Format:
    names = [file.name.lower() for file in path.rglob("*") if file.is_file()]
    for kind, suffixes in SUFFIXES.items():
        if any(name.endswith(suffixes) for name in names):
            return kind
    known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    raise UserError(f"{path} holds no file of a known kind: {known}.")
