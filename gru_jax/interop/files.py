"""Files that others made: read within bounds, and refused by one kind of error that names them."""

import contextlib
import importlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np

# safetensors.numpy reads no bfloat16.
DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "BOOL": np.dtype("?"),
}


class FileError(ValueError):
    """A file that cannot be loaded; the message begins with its path."""


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A file's content.

    Raises:
        FileError: there is no such file, it is a folder, or it may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{os.fspath(path)}: {error.strerror or error}") from error


@contextlib.contextmanager
def file_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what is wrong with the content of a file into a :class:`FileError`."""
    try:
        yield
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        raise FileError(f"{os.fspath(path)}: {error}") from error


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a caller handed in a file's path, and not what is in it."""
    return isinstance(value, (str, os.PathLike))


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name.

    Raises:
        FileError: the file cannot be read, or is no valid one.
        ImportError: safetensors is not installed.
    """
    with file_errors(path):
        return parse_safetensors(read_bytes(path))


def parse_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file's content by name; ValueError where it is invalid."""
    safetensors = import_optional("safetensors")
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"no valid .safetensors file: {error}") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} has dtype {entry['dtype']}; known are {', '.join(DTYPES)}")
        flat = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def read_archive(data: bytes, endings: tuple[str, ...]) -> dict[str, bytes]:
    """Entries of a zip file that keeps them as they are; nothing is unpacked to a disk.

    Args:
        data: the file's content.
        endings: the entries whose names end so are read.

    Raises:
        ValueError: it is no zip file, an entry is compressed or damaged, or they claim more bytes
            than there are.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its entries are compressed")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("its entries claim more bytes than there are")
            return {
                entry.filename: archive.read(entry)
                for entry in entries
                if entry.filename.endswith(endings)
            }
    except Exception as error:
        # What zipfile stumbles over is of many kinds.
        raise ValueError(f"no valid archive: {error}") from error


def import_optional(module: str) -> ModuleType:
    """Imports what a converter needs; ImportError that names the extra where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{name} is import_optional here and not installed: pip install 'gru-jax[interop]'"
        ) from error
