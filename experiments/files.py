"""Atomic writes: a process killed at any time leaves the old content of a file, or the new one."""

import json
from pathlib import Path
from typing import Any

from gru_jax import _files


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file's content; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; its old content is unchanged.
    """
    _files.write_atomically(path, content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """Replaces a file's content by indented JSON; raises OSError as :func:`write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
