"""Writing files so that a kill at any moment leaves the old content or the new, never half."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes content to a file, whole or not at all.

    Raises:
        OSError: where it cannot be written; what the file held before stays.
    """
    data = content.encode() if isinstance(content, str) else content
    replace_atomically(path, lambda beside: beside.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all. Raises OSError as `write_atomically` does."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def replace_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` make a file beside the path, then renames it over the path.

    Raises:
        OSError: where it cannot be written; what the file held before stays.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        write(beside)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
