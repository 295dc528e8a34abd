"""Reads untrusted ONNX files: the model, and the arrays of its tensors."""

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from gru_jax.interop.files import FileError, read_bytes

MAX_FILE_BYTES = 2**31 - 1
"""Size limit of a Protocol Buffers message; larger models keep tensors in external files."""

TENSOR_DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype(jnp.bfloat16),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
    TensorProto.BOOL: np.dtype("?"),
}
"""Supported dtypes of tensors: those of weights, and of shapes and axes."""

MAX_FIELDS = 500_000
"""Limit of the fields in a large model's messages, which take more memory than bytes."""

MAX_UNCOUNTED_BYTES = 2 * MAX_FIELDS
"""Models of this size cannot have more, because a field has two bytes at least."""

MAX_COPIED_BYTES = 16 << 20
"""Limit of the models whose initializers are copied by the parser."""

MIN_SHARED_BYTES = 64 << 10
"""The least size of the data of an initializer that are taken out of a larger model."""

MAX_AXES = 32
MAX_DEPTH = 100
"""The parser's limit of messages within messages."""

FIXED_SIZES = {1: 8, 5: 4}
RAW_DATA_KEYS = [
    message.DESCRIPTOR.fields_by_name[name].number << 3 | 2
    for message, name in (
        (onnx.ModelProto, "graph"),
        (onnx.GraphProto, "initializer"),
        (TensorProto, "raw_data"),
    )
]
"""Keys of the fields from a model down to the data of an initializer; each takes one byte."""
INTEGER_TYPES = (
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT64,
)

ModelSource: TypeAlias = onnx.ModelProto | bytes | str | os.PathLike[str]
RawData: TypeAlias = dict[int, memoryview]


def open_model(source: ModelSource) -> tuple[onnx.ModelProto, RawData]:
    """Opens a model given as an object, as bytes or as a path.

    Returns:
        The model, and the data of large initializers by their indices. In the model these are
        empty: the parser would copy them, and each access to its message once more.

    Raises:
        TypeError: ``source`` is none of these.
        ValueError: it is not an ONNX model.
        FileError: the file cannot be read.
    """
    model: Any = source
    raw_data: RawData = {}
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.exists() and not path.is_file():
            raise FileError(f"{path}: not a file")
        if path.exists() and path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"{path}: the file is larger than {MAX_FILE_BYTES} bytes")
        model = read_bytes(path)
    if isinstance(model, bytes):
        if len(model) > MAX_UNCOUNTED_BYTES:
            _count_fields(memoryview(model), onnx.ModelProto.DESCRIPTOR, MAX_FIELDS)
        if len(model) > MAX_COPIED_BYTES:
            model, raw_data = _take_raw_data(model)
        try:
            model = onnx.ModelProto.FromString(model)
        except DecodeError as error:
            raise ValueError(f"not an ONNX model: {error}") from error
    if not isinstance(model, onnx.ModelProto):
        raise TypeError(f"expected an onnx.ModelProto, bytes or a path, got {type(model).__name__}")
    if not model.graph.node:
        raise ValueError("not an ONNX model, or one without nodes")
    return model, raw_data


def _take_raw_data(model: bytes) -> tuple[bytes, RawData]:
    """Takes the large data of initializers out of a serialised model.

    Returns:
        The model in which they are empty, and the data by the indices of the initializers; the
        model as it is if its messages are cut off, which the parser reports.
    """
    found: RawData = {}
    initializers = 0

    def take(data: memoryview, keys: Sequence[int]) -> list[Any]:
        """The parts of a message without the data; `keys` are those of the fields on the way."""
        nonlocal initializers
        parts, copied, position = [], 0, 0
        while position < len(data):
            begin, key = position, data[position]
            content, position = _skip_field(data, position)
            if key != keys[0]:
                continue
            inside: list[Any] = []
            if len(keys) > 1:
                inside = take(data[content:position], keys[1:])
                initializers += len(keys) == 2
            # A later field of the same message takes the place of an earlier one.
            elif position - content < MIN_SHARED_BYTES:
                found.pop(initializers, None)
            else:
                found[initializers] = data[content:position]
                inside = [b""]
            if inside:
                parts += [data[copied:begin], bytes([key]), _to_varint(sum(map(len, inside)))]
                parts += inside
                copied = position
        return [*parts, data[copied:]] if parts else []

    try:
        parts = take(memoryview(model), RAW_DATA_KEYS)
    except (ValueError, IndexError):
        return model, {}
    return (b"".join(parts), found) if parts else (model, {})


def _skip_field(data: memoryview, position: int) -> tuple[int, int]:
    """Where the content of a field begins, and its end; ValueError if it is not whole."""
    key, position = _varint(data, position)
    if key & 7 == 2:
        length, position = _varint(data, position)
        end = position + length
    elif key & 7 == 0:
        _, end = _varint(data, position)
    else:
        end = position + FIXED_SIZES.get(key & 7, len(data))
    if end > len(data):
        raise ValueError("a field is cut off, or a group")
    return position, end


def _count_fields(data: memoryview, message: Any, left: int, depth: int = 0) -> int:
    """Counts the fields of a serialised message and of those within it, before it is parsed.

    Numbers that are packed into one field are not larger in memory than eight times their bytes,
    so eight bytes of them count as one field.

    Returns:
        How many more fields there may be.

    Raises:
        ValueError: there are more than ``left``.
    """
    fields = message.fields_by_number
    position, size = 0, len(data)
    while position < size:
        left -= 1
        if left < 0:
            raise ValueError(f"the model has more than the limit of {MAX_FIELDS} fields")
        key, position = _varint(data, position)
        if key & 7 == 2:
            length, position = _varint(data, position)
            field = fields.get(key >> 3)
            content = data[position : position + length]
            if field is not None and field.message_type is not None and depth < MAX_DEPTH:
                left = _count_fields(content, field.message_type, left, depth + 1)
            elif field is not None and field.cpp_type in INTEGER_TYPES:
                left -= len(content) // 8
            position += length
        elif key & 7 == 0:
            _, position = _varint(data, position)
        elif key & 7 in FIXED_SIZES:
            position += FIXED_SIZES[key & 7]
        else:
            # A group, or no message at all, which the parser reports.
            return left
    return left


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and the position after it."""
    if position < len(data) and data[position] < 128:
        return data[position], position + 1
    value = shift = 0
    for byte in data[position : position + 10]:
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
    # Not a number, which the parser reports.
    return 0, len(data)


def _to_varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


class TensorReader:
    """Reads the tensors of a model; external ones are memory-mapped, not copied.

    Args:
        directory: the model's directory, which must contain its external files; None if the model
            was not read from a file.
    """

    def __init__(self, directory: Path | None):
        self._directory = directory
        self._files: dict[Path, np.ndarray] = {}

    def read(self, tensor: TensorProto, raw_data: memoryview | None = None) -> np.ndarray:
        """Reads a tensor with one of the types in :data:`TENSOR_DTYPES`.

        Args:
            tensor: the tensor.
            raw_data: the content of its field of this name, if that was taken out.

        Raises:
            ValueError: its data do not fit its shape, or its external file is not readable.
        """
        name, shape = f"tensor {tensor.name!r}", tuple(tensor.dims)
        if len(shape) > MAX_AXES:
            raise ValueError(f"{name} has {len(shape)} axes, more than the limit of {MAX_AXES}")
        if any(size < 0 for size in shape) or tensor.HasField("segment"):
            raise ValueError(f"{name} has shape {shape} or is a segment, which is not supported")
        dtype = TENSOR_DTYPES[tensor.data_type]
        needed = math.prod(shape) * dtype.itemsize
        content = None
        if tensor.data_location == TensorProto.EXTERNAL:
            content = self._read_external(tensor, needed)
        elif tensor.HasField("raw_data"):
            content = np.frombuffer(tensor.raw_data if raw_data is None else raw_data, np.uint8)
        if content is not None and content.size != needed:
            raise ValueError(
                f"{name} of shape {shape} needs {needed} bytes, but has {content.size}"
            )
        try:
            if content is None:
                return np.asarray(numpy_helper.to_array(tensor)).reshape(shape)
            return content.view(dtype).reshape(shape)
        # Typed fields and shapes that do not fit raise exceptions of many types.
        except Exception as error:
            raise ValueError(f"{name} does not hold an array of shape {shape}: {error}") from error

    def _read_external(self, tensor: TensorProto, needed: int) -> np.ndarray:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location, offset = fields.get("location", ""), fields.get("offset", "0")
        name = f"tensor {tensor.name!r}"
        if self._directory is None:
            raise ValueError(
                f"{name} is in the external file {location!r}: pass the path of the model"
            )
        content = self._open(self._directory.resolve(), location)
        if content is None:
            raise ValueError(
                f"{name} is in {location!r}, which is no file in the model's directory"
            )
        fits = offset.isdecimal() and len(offset) < 20 and int(offset) + needed <= content.size
        if not fits or fields.get("length", str(needed)) != str(needed):
            raise ValueError(
                f"{name} needs {needed} of the {content.size} bytes of {location!r}; it has "
                f"offset {offset!r} and length {fields.get('length')!r}"
            )
        return content[int(offset) : int(offset) + needed]

    def _open(self, within: Path, location: str) -> np.ndarray | None:
        """The bytes of a file within a directory; None if there is no readable file."""
        # A null byte, a loop of links, a name that is too long, missing permissions.
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
