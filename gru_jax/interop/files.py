"""Reading untrusted files: bounded reads, and one error type that names the file."""

import contextlib
import importlib
import importlib.metadata
import io
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np

# safetensors.numpy does not read bfloat16.
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
        FileError: the file does not exist, is a folder, or is not readable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{os.fspath(path)}: {error.strerror or error}") from error


@contextlib.contextmanager
def file_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Converts ValueError and TypeError within the block to a :class:`FileError` with the path."""
    try:
        yield
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        raise FileError(f"{os.fspath(path)}: {error}") from error


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``value`` is a file's path, as opposed to its content."""
    return isinstance(value, (str, os.PathLike))


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name.

    Raises:
        FileError: the file cannot be read or is not valid.
        ImportError: safetensors is not installed.
    """
    with file_errors(path):
        return parse_safetensors(read_bytes(path))


def parse_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file's content by name; ValueError if it is not valid."""
    safetensors = import_optional("safetensors")
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"no valid .safetensors file: {error}") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{name} has dtype {entry['dtype']}, expected one of {', '.join(DTYPES)}"
            )
        flat = np.frombuffer(entry["data"], DTYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays


def read_archive(data: bytes, endings: tuple[str, ...]) -> dict[str, bytes]:
    """Reads entries of an uncompressed zip file; nothing is extracted to disk.

    Args:
        data: the file's content.
        endings: suffixes of the names of the entries to read.

    Raises:
        ValueError: not a zip file, an entry is compressed or corrupted, or the entries claim more
            bytes than the file has.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("its entries are compressed")
            if sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("its entries claim more bytes than the file has")
            return {
                entry.filename: archive.read(entry)
                for entry in entries
                if entry.filename.endswith(endings)
            }
    except Exception as error:
        # zipfile raises exceptions of many types on corrupted archives.
        raise ValueError(f"no valid archive: {error}") from error


def import_optional(module: str) -> ModuleType:
    """Imports an optional dependency; the ImportError names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"{name} is needed here and not installed: pip install 'gru-jax[interop]'"
        ) from error


def is_exactly(value: object, module: str, *names: str) -> bool:
    """Whether the class of ``value`` is one of ``module``'s classes with these names.

    A subclass may compute another function, so it does not count. The module is not imported: no
    value can be an instance of a class in a module that is not loaded.
    """
    library = sys.modules.get(module)
    return library is not None and any(type(value) is getattr(library, name) for name in names)


def library_version() -> str:
    """The installed version of gru-jax, or "unknown" without an installation."""
    try:
        return importlib.metadata.version("gru-jax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
