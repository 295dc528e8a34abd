"""Reading untrusted files: bounded reads, and one error type that names the file.

No reader needs more memory than three times the file and 64 MiB, whatever the file says.
"""

import contextlib
import importlib
import importlib.metadata
import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

MAX_JSON_BYTES = 2 << 20
MAX_MESSAGE = 1000
MAX_AXES = 32

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
    """Converts ValueError and TypeError within the block to a :class:`FileError` with the path.

    What a file says may be part of the message, which is cut to :data:`MAX_MESSAGE` characters.
    """
    try:
        yield
    except FileError:
        raise
    except (ValueError, TypeError) as error:
        message = str(error)
        if len(message) > MAX_MESSAGE:
            message = f"{message[:MAX_MESSAGE]}..."
        raise FileError(f"{os.fspath(path)}: {message}") from error


def is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether ``value`` is a file's path, as opposed to its content."""
    return isinstance(value, (str, os.PathLike))


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file by name.

    Raises:
        FileError: the file cannot be read or is not valid.
    """
    with file_errors(path):
        return parse_safetensors(read_bytes(path))[0]


def parse_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays by name and the metadata of a .safetensors file's content.

    The arrays share the memory of ``data``. The format is that of safetensors 0.4: a size, a header
    in JSON, and the arrays' bytes, which leave no gap and do not overlap.

    Raises:
        ValueError: it is not valid.
    """
    if len(data) < 8:
        raise ValueError("no valid .safetensors file: it has no header")
    (size,) = struct.unpack_from("<Q", data)
    begin = 8 + size
    if begin > len(data):
        raise ValueError(f"no valid .safetensors file: its header would have {size} bytes")
    header = parse_json(memoryview(data)[8:begin], "the header of the .safetensors file")
    if not isinstance(header, dict):
        raise ValueError("no valid .safetensors file: its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("no valid .safetensors file: its metadata are not strings by name")
    places = {name: _tensor_place(name, entry) for name, entry in header.items()}
    arrays, position = {}, 0
    content = memoryview(data)[begin:]
    for name, (dtype, shape, first, end) in sorted(places.items(), key=lambda each: each[1][2:]):
        if first != position or end - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"no valid .safetensors file: {name} of shape {shape} and {dtype} is at bytes "
                f"{first} to {end}, after {position} bytes of other arrays"
            )
        if end > len(content):
            raise ValueError(f"no valid .safetensors file: {name} ends beyond its end")
        arrays[name] = np.frombuffer(content[first:end], np.uint8).view(dtype).reshape(shape)
        position = end
    if position != len(content):
        raise ValueError("no valid .safetensors file: it has bytes that belong to no array")
    return {name: arrays[name] for name in places}, metadata


def _tensor_place(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """The dtype, shape, begin and end that a header gives for an array."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"no valid .safetensors file: {name} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype!r:.100}, expected one of {', '.join(DTYPES)}")
    for numbers in (shape, offsets):
        if (
            not isinstance(numbers, list)
            or len(numbers) > MAX_AXES
            or not all(type(each) is int and 0 <= each < 1 << 63 for each in numbers)
        ):
            raise ValueError(f"no valid .safetensors file: {name} has a corrupted shape or place")
    if len(offsets) != 2:
        raise ValueError(f"no valid .safetensors file: {name} has a corrupted place")
    return DTYPES[dtype], tuple(shape), *offsets


def parse_json(text: str | bytes | memoryview, what: str) -> Any:
    """A JSON value; ValueError if it is not valid, has a name twice, or is too large or too deep.

    Python's objects need up to 30 times as much memory as the text, so the text has at most
    :data:`MAX_JSON_BYTES`.
    """
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{what} has {len(text)} bytes, more than the limit of {MAX_JSON_BYTES}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    def fail(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = bytes(text).decode() if not isinstance(text, str) else text
        return json.loads(text, object_pairs_hook=unique, parse_constant=fail)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from error


# Extras that install a package without all the frameworks, which need gigabytes.
_EXTRAS = {
    "flatbuffers": "files",
    "flax": "flax",
    "h5py": "files",
    "onnx": "files",
    "psutil": "files",
    "safetensors": "files",
}


def import_optional(module: str) -> ModuleType:
    """Imports an optional dependency; the ImportError names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        extra = _EXTRAS.get(name, "interop")
        raise ImportError(
            f"{name} is needed here and not installed: pip install 'gru-jax[{extra}]', "
            f"or in a clone pip install -e '.[{extra}]'"
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
