"""Bounded reads and atomic writes of files.

A process killed while it writes leaves the old content of the file, or the new one.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from experiments.errors import UserError

# A text with a scheme such as gs:// or s3://.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file's content; text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; its old content is unchanged.
    """
    # Imported here, because it imports JAX: configs are read before that.
    from gru_jax import _files

    _files.write_atomically(path, content.encode() if isinstance(content, str) else content)


def check_local(path: str) -> str:
    """Returns a path; as one, gs://bucket/run would be a folder `gs:` in the working directory.

    Raises:
        UserError: it is a URL.
    """
    if URL.match(path):
        raise UserError(
            f"{path} is a URL, but this must be on this machine. URLs, gs://BUCKET/PATH, are "
            "possible for --run-dir of train and for runs that a command only reads."
        )
    return path


def read_bytes(path: Path, largest: int) -> bytes:
    """Reads a regular file of bounded size.

    Args:
        path: the file; links are followed.
        largest: its largest size in bytes.

    Raises:
        UserError: it is absent, is no regular file or is larger, or cannot be read.
    """
    try:
        # Nonblocking, because opening a FIFO waits for somebody who writes into it.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} cannot be read: it is not a regular file.")
            content = file.read(largest + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > largest:
        raise UserError(f"{path} is larger than {largest / 2**20:g} MiB.")
    return content


def write_json(path: Path, value: Any) -> None:
    """Replaces a file's content by indented JSON; raises OSError as :func:`write_atomically`."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
