"""Files of arrays, .npz and .npy. Nothing is unpickled."""

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from experiments.errors import UserError

INPUTS = "x"
LARGEST = 8 * 2**30
"""Bytes of all arrays."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an .npz file, or an .npy file as the array `x`.

    Raises:
        UserError: it is none, holds Python objects, is corrupted or is too large.
    """
    try:
        if path.name.lower().endswith(".npy"):
            with path.open("rb") as file:
                return {INPUTS: _read_array(file, path.stat().st_size, str(path))}
        with zipfile.ZipFile(path) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            size = sum(member.file_size for member in members)
            if size > LARGEST:
                raise UserError(
                    f"{path} holds {size / 2**30:.1f} GiB, but at most {LARGEST // 2**30} GiB are "
                    "read. A function can return parts of it: data.format is function then."
                )
            arrays = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as file:
                    arrays[name] = _read_array(file, member.file_size, f"{path}: {name}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not an .npz file that can be read: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not arrays:
        raise UserError(f"{path} holds no arrays.")
    return arrays


def _read_array(file: Any, size: int, where: str) -> np.ndarray:
    try:
        shape, is_fortran, dtype = _read_header(file)
    except (ValueError, EOFError, TypeError) as error:
        first = str(error).splitlines()[0][:200]
        raise UserError(f"{where} is not an array in NumPy's format: {first}.") from None
    if dtype.hasobject:
        raise UserError(
            f"{where} holds Python objects, which are not read: they could run code. Sequences of "
            "unequal lengths are given one after the other, with the array lengths."
        )
    if dtype.kind not in "biufUS":
        raise UserError(f"{where} has the dtype {dtype}, but should be numbers or texts.")
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needed > size or needed > LARGEST:
        raise UserError(f"{where} is truncated: its header says {shape} of {dtype}.")
    content = file.read(needed)
    if len(content) < needed:
        raise UserError(f"{where} is truncated: its header says {shape} of {dtype}.")
    order = "F" if is_fortran else "C"
    return np.frombuffer(content, dtype, math.prod(shape)).reshape(shape, order=order)


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    # The public readers want a file that starts at the version.
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"the version {version} of the format is not supported")
    return readers[version](file)
