"""Downloading published files into the data directory, whole or not at all."""

import http.client
import io
import urllib.request
from pathlib import Path

from experiments.data import DataFile, hash_differs, locate
from experiments.errors import UserError
from experiments.files import write_atomically


def download(file: DataFile, data_dir: Path) -> Path:
    """Downloads a file into the data directory, unless it is there already, and returns its path.

    Raises:
        UserError: if it cannot be downloaded or written, or what came has another hash; then the
            data directory is left as it was.
    """
    try:
        return locate(file, data_dir)
    except UserError:
        pass
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{file.url} cannot be downloaded: {error}.") from None
    found = file.digest(io.BytesIO(content))
    if found != file.sha256:
        raise UserError(
            f"What {file.url} sent is not the file expected: {hash_differs(file, found)} "
            "Nothing was written."
        )
    path = data_dir / file.filename
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    return path
