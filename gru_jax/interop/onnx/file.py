"""From bytes that anybody may have written to a model, and to the arrays it holds."""

import contextlib
import math
import os
from pathlib import Path
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from gru_jax.interop.files import FileError, read_bytes

MAX_FILE_BYTES = 2**31 - 1
"""Bytes that a Protocol Buffers message may have; what is larger lies in files of its own."""

TENSOR_DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype(jnp.bfloat16),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.BOOL: np.dtype("?"),
}
"""Types of weights, and of the shapes and axes beside them."""

ModelSource: TypeAlias = onnx.ModelProto | bytes | str | os.PathLike[str]


def open_model(theirs: ModelSource) -> onnx.ModelProto:
    """A model from what a caller handed in.

    Raises:
        TypeError: it is neither a model nor bytes nor a path.
        ValueError: it is not an ONNX model.
        FileError: the file cannot be read.
    """
    model = theirs
    if isinstance(theirs, (str, os.PathLike)):
        path = Path(theirs)
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: it is no file")
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(
                f"{path}: a model has {MAX_FILE_BYTES} bytes at most, this file has more"
            )
        model = read_bytes(path)
    if isinstance(model, bytes):
        try:
            model = onnx.ModelProto.FromString(model)
        except DecodeError as error:
            raise ValueError(f"no ONNX model: {error}") from error
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"expected an onnx.ModelProto, bytes or a path, got {type(model).__name__}")
    if not model.graph.node:
        raise ValueError("no ONNX model, or one without nodes")
    return model


class TensorReader:
    """Reads the tensors of a model, those in further files from where they lie, without copying.

    Args:
        directory: where the model lies, in which its further files must lie, too; None where it
            was no file.
    """

    def __init__(self, directory: Path | None):
        self._directory = directory
        self._files: dict[Path, np.ndarray] = {}

    def read(self, tensor: TensorProto) -> np.ndarray:
        """The numbers of a tensor of one of the types in :data:`TENSOR_DTYPES`.

        Raises:
            ValueError: it does not hold what its shape says, or lies elsewhere.
        """
        name, shape = f"tensor {tensor.name!r}", tuple(tensor.dims)
        if any(size < 0 for size in shape) or tensor.HasField("segment"):
            raise ValueError(f"{name} has shape {shape}, or is a segment of a tensor")
        dtype = TENSOR_DTYPES[tensor.data_type]
        needed = math.prod(shape) * dtype.itemsize
        content = None
        if tensor.data_location == TensorProto.EXTERNAL:
            content = self._read_elsewhere(tensor, needed)
        elif tensor.HasField("raw_data"):
            content = np.frombuffer(tensor.raw_data, np.uint8)
        if content is not None and content.size != needed:
            raise ValueError(
                f"{name} of shape {shape} needs {needed} bytes, but has {content.size}"
            )
        try:
            if content is None:
                return np.asarray(numpy_helper.to_array(tensor)).reshape(shape)
            return content.view(dtype).reshape(shape)
        # Typed fields that do not fit, and shapes that no array has, make errors of many kinds.
        except Exception as error:
            raise ValueError(
                f"{name} does not hold what its shape {shape} says: {error}"
            ) from error

    def _read_elsewhere(self, tensor: TensorProto, needed: int) -> np.ndarray:
        said = {entry.key: entry.value for entry in tensor.external_data}
        location, offset = said.get("location", ""), said.get("offset", "0")
        name = f"tensor {tensor.name!r}"
        if self._directory is None:
            raise ValueError(f"{name} lies in the file {location!r}: give the path of the model")
        content = self._open(self._directory.resolve(), location)
        if content is None:
            raise ValueError(f"{name} lies in {location!r}, no file in the model's directory")
        fits = offset.isdecimal() and len(offset) < 20 and int(offset) + needed <= content.size
        if not fits or said.get("length", str(needed)) != str(needed):
            raise ValueError(
                f"{name} needs {needed} of the {content.size} bytes of {location!r}; it says "
                f"offset {offset!r} and length {said.get('length')!r}"
            )
        return content[int(offset) : int(offset) + needed]

    def _open(self, within: Path, location: str) -> np.ndarray | None:
        """The bytes of a file in a directory or below; None where there is none to be read."""
        # A null byte, a loop of links, a name that is too long, no right to read.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            path = (within / location).resolve()
            if not path.is_relative_to(within) or not path.is_file():
                return None
            if path not in self._files:
                is_empty = not path.stat().st_size
                empty = np.zeros(0, np.uint8)
                self._files[path] = empty if is_empty else np.memmap(path, np.uint8, mode="r")
            return self._files[path]
        return None
