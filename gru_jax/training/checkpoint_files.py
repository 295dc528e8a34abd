"""The files of one checkpoint, on a disk or in a bucket: whether they are those that were saved."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from gru_jax.training import _orbax
from gru_jax.training.errors import error_message

_DIGESTS = "digests.json"
# With this file Orbax commits a checkpoint in a bucket.
_COMMIT = "commit_success.txt"
_ENTRIES = {"arrays", "record", "_CHECKPOINT_METADATA", _DIGESTS}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MAX_JSON_BYTES = 2 << 20
"""Limit of a small checkpoint's JSON, and a tenth of a large one's files is that of a large one's.

Python's objects need up to 30 times as much memory as their JSON.
"""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL."""
    return _URL.match(os.fspath(path)) is not None


def is_committed(checkpoint: Any) -> bool:
    """Whether a save to this directory was not cut off."""
    # On a disk Orbax gives the directory its name at the end.
    return not is_remote(checkpoint) or (checkpoint / _COMMIT).exists()


def is_of_a_save(directory: Any) -> bool:
    """Whether a directory is empty or has an entry of a checkpoint, and so is of nothing else."""
    names = {path.name for path in directory.iterdir()}
    return not names or not names.isdisjoint(_ENTRIES)


def write_digests(checkpoint: Any) -> None:
    """Writes the SHA-256 digests of a checkpoint's files beside them."""
    (checkpoint / _DIGESTS).write_text(json.dumps(_file_digests(checkpoint), indent=1))


def find_corruption(checkpoint: Any) -> str | None:
    """What is wrong with a checkpoint's files, in time and memory bounded by their sizes."""
    try:
        if fault := _find_unbounded(checkpoint):
            return fault
        if _orbax.IS_OLD:
            # It reads this file, too, which changes after the digests are made.
            json.loads((checkpoint / "_CHECKPOINT_METADATA").read_text())
        expected = dict(json.loads((checkpoint / _DIGESTS).read_text()))
        found = _file_digests(checkpoint)
    except (OSError, TypeError, ValueError, RecursionError) as error:
        return f"its digests cannot be checked: {error_message(error)}"
    for name in expected | found:
        if name not in found:
            return f"its file {name} is missing"
        if name not in expected:
            return f"its file {name} is not one of those that were saved"
        if found[name] != expected[name]:
            return f"its file {name} was changed"
    return None


def _find_unbounded(checkpoint: Any) -> str | None:
    """An entry whose reading may never end, or would take more memory than the bound."""
    sizes = {}
    for path in _walk(checkpoint):
        name = path.relative_to(checkpoint).as_posix()
        if is_remote(path):
            sizes[name] = path.stat().length
            continue
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            sizes[name] = status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            return f"its {name} is neither a file nor a directory"
    limit = max(MAX_JSON_BYTES, sum(sizes.values()) // 10)
    for name, size in sizes.items():
        # The elements of the arrays are in directories of this name.
        if "/d/" not in name and size > limit:
            return f"its file {name} has {size} bytes, more than the limit of {limit}"
    return None


def _file_digests(checkpoint: Any) -> dict[str, str]:
    digests = {}
    for item in ("arrays", "record"):
        for path in sorted(_walk(checkpoint / item)):
            if path.is_file():
                with path.open("rb") as file:
                    name = path.relative_to(checkpoint).as_posix()
                    digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _walk(directory: Any) -> Iterator[Any]:
    """Yields what is in a directory, and below it; of a bucket the files alone."""
    if not is_remote(directory):
        yield from directory.rglob("*")
        return
    for path in directory.iterdir():
        yield from _walk(path) if path.is_dir() else [path]


def move(directory: Any, target: Any) -> None:
    """Moves a directory, of a bucket file by file."""
    if not is_remote(directory):
        directory.replace(target)
        return
    for path in list(_walk(directory)):
        path.copy(target / path.relative_to(directory))
    directory.rmtree()
