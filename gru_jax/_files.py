"""Writing a file so that a kill at any moment leaves the old content or the new, never half."""

import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes ``content`` to a file, whole or not at all.

    Raises:
        OSError: it cannot be written; what the file held before stays.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
