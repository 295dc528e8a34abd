"""Download of published files: resumed after an interruption, and verified before use."""

import contextlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from experiments.datasets.registry import DataFile, fetch_command, hash_mismatch, locate
from experiments.errors import UserError

TIMEOUT_SECONDS = 60
CHUNK = 2**16
CLOSED = "the connection was closed"


def download(file: DataFile, data_dir: Path) -> Path:
    """Downloads a file into the data directory, unless it is there already; returns its path.

    Received bytes are kept next to the path, as .NAME.partial, until the file is complete and its
    hash is verified. An interrupted or killed download resumes from them.

    Raises:
        UserError: the file cannot be downloaded or written, the download is interrupted, or the
            content is not the published file; a file at the path stays as it was.
    """
    with contextlib.suppress(UserError):
        return locate(file, data_dir)
    path = data_dir / file.filename
    partial = path.with_name(f".{path.name}.partial")
    try:
        resumed = _receive(file, data_dir, partial)
        error = _find_error(file, partial)
        if error and resumed:
            print(
                f"The resumed download of {path.name} is not the expected file: {error} "
                "Downloading it again from the beginning.",
                file=sys.stderr,
            )
            partial.unlink()
            _receive(file, data_dir, partial)
            error = _find_error(file, partial)
        if error:
            partial.unlink()
            raise UserError(
                f"The content of {file.url} is not the expected file: {error} Nothing was written."
            )
        os.replace(partial, path)
    except OSError as failure:
        raise UserError(f"{path} cannot be written: {failure.strerror}.") from None
    return path


def _receive(file: DataFile, data_dir: Path, partial: Path) -> bool:
    """Downloads the rest of a partial file; returns whether its earlier bytes were used.

    Raises:
        UserError: the download is interrupted, or the server announces another size.
        OSError: the partial file cannot be written.
    """
    offset = partial.stat().st_size if partial.exists() else 0
    if offset >= file.size:
        return True
    response = _request(file, offset)
    if response is None:
        return True
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            offset = 0
        total = _total_size(file, response, offset)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(partial, "ab" if offset else "wb") as output,
            tqdm(
                desc=partial.name.removeprefix(".").removesuffix(".partial"),
                initial=offset,
                total=total,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                dynamic_ncols=True,
            ) as bar,
        ):
            error = _copy(response, output, bar, file.size)
            received = output.tell()
    if error is None and total is not None and received < total:
        error = CLOSED
    if error is not None:
        raise UserError(
            f"The download of {file.url} was interrupted after {received:,} bytes: {error}. "
            f"`{fetch_command(file.data_set, data_dir)}` resumes it."
        )
    return offset > 0


def _request(file: DataFile, offset: int) -> Any:
    """Requests a file from an offset; returns None if the file ends there."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(file.url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        reason = error
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, http.client.HTTPException) as error:
        reason = error
    raise UserError(f"{file.url} cannot be downloaded: {reason}.")


def _total_size(file: DataFile, response: Any, offset: int) -> int | None:
    """Returns the size of the complete file; None if it is unknown.

    Raises:
        UserError: the announced size is not that of the published file.
    """
    announced = response.headers["Content-Length"]
    if announced is None:
        return None if file.members else file.size
    total = offset + int(announced)
    if total > file.size or (total < file.size and not file.members):
        raise UserError(
            f"The content of {file.url} is not the expected file: it has {total:,} bytes, but "
            f"should have {'at most ' if file.members else ''}{file.size:,}. Nothing was written."
        )
    return total


def _copy(response: Any, output: BinaryIO, bar: tqdm, max_size: int) -> str | None:
    """Writes the response, stopping beyond `max_size`; returns an error, or None."""
    while output.tell() <= max_size:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            return CLOSED if isinstance(error, http.client.IncompleteRead) else str(error)
        if not chunk:
            break
        output.write(chunk)
        # A killed process must not lose received bytes.
        output.flush()
        bar.update(len(chunk))
    return None


def _find_error(file: DataFile, partial: Path) -> str | None:
    """Returns why a downloaded file is not the published one; None if it is."""
    size = partial.stat().st_size
    if size > file.size:
        return f"it has {size:,} bytes or more, but should have {file.size:,}."
    with open(partial, "rb") as content:
        found = file.digest(content)
    return None if found == file.sha256 else hash_mismatch(file, found)
