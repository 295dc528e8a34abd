"""Downloading published files: going on where it broke off, checked before they count as there."""

import contextlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from experiments.datasets.registry import DataFile, fetch_command, hash_differs, locate
from experiments.errors import UserError

TIMEOUT_SECONDS = 60
CHUNK = 2**16
CLOSED = "the connection was closed"


def download(file: DataFile, data_dir: Path) -> Path:
    """Downloads a file into the data directory, unless it is there already, and returns its path.

    What has come lies beside the path, as .NAME.partial, until it is all there and its hash is
    right. A download that broke off, or was killed, goes on from it.

    Raises:
        UserError: if it cannot be downloaded or written, breaks off, or is not the file; what the
            path held before stays.
    """
    with contextlib.suppress(UserError):
        return locate(file, data_dir)
    path = data_dir / file.filename
    partial = path.with_name(f".{path.name}.partial")
    try:
        resumed = _receive(file, data_dir, partial)
        fault = _fault(file, partial)
        if fault and resumed:
            print(
                f"What there was of {path.name} and the rest of it are not the file: {fault} "
                "It is downloaded anew.",
                file=sys.stderr,
            )
            partial.unlink()
            _receive(file, data_dir, partial)
            fault = _fault(file, partial)
        if fault:
            partial.unlink()
            raise UserError(
                f"What {file.url} sent is not the file expected: {fault} Nothing was written."
            )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def _receive(file: DataFile, data_dir: Path, partial: Path) -> bool:
    """Downloads what the partial file lacks; returns whether what there was of it was kept.

    Raises:
        UserError: if the rest does not come, or is announced to have another size.
        OSError: if it cannot be written.
    """
    there = partial.stat().st_size if partial.exists() else 0
    if there >= file.size:
        return True
    response = _request(file, there)
    if response is None:
        return True
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            there = 0
        total = _total(file, response, there)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(partial, "ab" if there else "wb") as output,
            tqdm(
                desc=partial.name.removeprefix(".").removesuffix(".partial"),
                initial=there,
                total=total,
                unit="B",
                unit_scale=True,
                disable=not sys.stderr.isatty(),
                dynamic_ncols=True,
            ) as bar,
        ):
            fault = _copy(response, output, bar, file.size)
            came = output.tell()
    if fault is None and total is not None and came < total:
        fault = CLOSED
    if fault is not None:
        raise UserError(
            f"The download of {file.url} broke off after {came:,} bytes: {fault}. "
            f"What came is kept; `{fetch_command(file.data_set, data_dir)}` goes on from there."
        )
    return there > 0


def _request(file: DataFile, there: int) -> Any:
    """Asks for a file from a byte on; None where the server has nothing from there on."""
    headers = {"Range": f"bytes={there}-"} if there else {}
    request = urllib.request.Request(file.url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if there and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        reason = error
    except urllib.error.URLError as error:
        reason = error.reason
    except (OSError, http.client.HTTPException) as error:
        reason = error
    raise UserError(f"{file.url} cannot be downloaded: {reason}.")


def _total(file: DataFile, response: Any, there: int) -> int | None:
    """How many bytes there will be with those that are there; None where that is not known.

    Raises:
        UserError: if the server announces what cannot be the file.
    """
    announced = response.headers["Content-Length"]
    if announced is None:
        return None if file.members else file.size
    total = there + int(announced)
    if total > file.size or (total < file.size and not file.members):
        raise UserError(
            f"What {file.url} sends is not the file expected: it has {total:,} bytes, but should "
            f"have {'at most ' if file.members else ''}{file.size:,}. Nothing was written."
        )
    return total


def _copy(response: Any, output: BinaryIO, bar: tqdm, most: int) -> str | None:
    """Writes what comes, until it is more than can be right; returns why it broke off, if so."""
    while output.tell() <= most:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            return CLOSED if isinstance(error, http.client.IncompleteRead) else str(error)
        if not chunk:
            break
        output.write(chunk)
        # What has come outlives the process.
        output.flush()
        bar.update(len(chunk))
    return None


def _fault(file: DataFile, partial: Path) -> str | None:
    """Says why what came is not the file; None where it is."""
    size = partial.stat().st_size
    if size > file.size:
        return f"it has {size:,} bytes or more, but should have {file.size:,}."
    with open(partial, "rb") as content:
        found = file.digest(content)
    return None if found == file.sha256 else hash_differs(file, found)
