"""gru_jax's own file format: .safetensors files with metadata that describe the model."""

import dataclasses
import json
import os
from typing import Any

import jax.numpy as jnp
import numpy as np

from gru_jax.cells import CELLS, Cell
from gru_jax.interop.files import (
    file_errors,
    import_optional,
    is_path,
    parse_json,
    parse_safetensors,
    read_bytes,
)
from gru_jax.interop.gate_layout import validate_stack
from gru_jax.stack import Stack

FORMAT = "gru_jax"
VERSION = 1


def load(source: str | os.PathLike[str] | bytes) -> Cell | Stack:
    """Loads parameters from a file that :func:`dump` wrote.

    Args:
        source: the file's path, or its content.

    Returns:
        A cell of one of the classes in :data:`gru_jax.cells.CELLS`, or a Stack of them, equal to
        what was dumped; float64 only under x64.

    Raises:
        FileError: the file cannot be read, was not written by :func:`dump`, was written by a later
            version, or its arrays do not fit its metadata; a ValueError that names the file.
        ValueError: the same errors, if ``source`` is a file's content.
    """
    if is_path(source):
        with file_errors(source):
            return load(read_bytes(source))
    if not isinstance(source, bytes):
        raise TypeError(f"expected a path or a file's content, got {type(source).__name__}")
    arrays, metadata = parse_safetensors(source)
    description = _read_description(metadata)
    try:
        params = _load_model(description, arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its metadata do not describe a model: {error!r}") from error
    if arrays:
        raise ValueError(f"its metadata do not name {', '.join(arrays)}")
    return params


def dump(params: Cell | Stack) -> bytes:
    """Converts parameters to the content of a .safetensors file.

    The metadata hold ``format`` and ``version`` of this layout, the ``equation`` of each class of
    cell, for people to read, and ``model``: JSON with the cell's name, sizes and dtypes, and how a
    stack combines its cells.

    Args:
        params: a cell of one of the classes in :data:`gru_jax.cells.CELLS`, or a Stack of them.

    Raises:
        TypeError: a cell of another class.
        ImportError: safetensors is not installed.
    """
    numpy_format = import_optional("safetensors.numpy")
    arrays: dict[str, np.ndarray] = {}
    if isinstance(params, Stack):
        params.validate()
        model: dict[str, Any] = {
            "merge": params.merge,
            "residual": params.residual,
            "layers": [
                [
                    _dump_cell(cell, arrays, f"layers.{index}.{direction}.")
                    for direction, cell in enumerate(layer)
                ]
                for index, layer in enumerate(params.layers)
            ],
        }
        cells = [cell for layer in model["layers"] for cell in layer]
    else:
        model = _dump_cell(params, arrays, "")
        cells = [model]
    metadata = {"format": FORMAT, "version": str(VERSION), "model": json.dumps(model)}
    equations = sorted({CELLS[cell["cell"]].equations for cell in cells})
    return numpy_format.save(arrays, metadata | {"equation": " | ".join(equations)})


def _dump_cell(cell: Any, arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Adds a cell's arrays to ``arrays`` and returns its description."""
    names = {kind.params: name for name, kind in CELLS.items()}
    if type(cell) not in names:
        supported = ", ".join(each.__name__ for each in names)
        raise TypeError(f"expected {supported} or a Stack of them, got {type(cell).__name__}")
    cell.validate()
    description: dict[str, Any] = {
        "cell": names[type(cell)],
        "input_size": cell.input_size,
        "hidden_size": cell.hidden_size,
        "arrays": {},
    }
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if field.metadata.get("static"):
            description[field.name] = value
        elif value is not None:
            array = np.ascontiguousarray(value)
            arrays[prefix + field.name] = array
            description["arrays"][field.name] = array.dtype.name
    return description


def _read_description(metadata: dict[str, str]) -> dict[str, Any]:
    """The model's description in a file's metadata."""
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"its metadata say format {metadata.get('format')!r}, expected {FORMAT!r}; "
            "gru_jax.interop.torch loads PyTorch's weights"
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(f"its version is {metadata.get('version')!r}, expected {str(VERSION)!r}")
    model = parse_json(metadata.get("model", ""), "the model in its metadata")
    if not isinstance(model, dict):
        raise ValueError(f"the model in its metadata is {type(model).__name__}, expected an object")
    return model


def _load_model(model: dict[str, Any], arrays: dict[str, np.ndarray]) -> Cell | Stack:
    if "layers" not in model:
        return _pop_cell(model, arrays, "")
    if not isinstance(model["residual"], bool):
        raise TypeError(f"residual is {model['residual']!r}")
    layers = tuple(
        tuple(
            _pop_cell(cell, arrays, f"layers.{index}.{direction}.")
            for direction, cell in enumerate(layer)
        )
        for index, layer in enumerate(model["layers"])
    )
    return validate_stack(Stack(layers, merge=model["merge"], residual=model["residual"]))


def _pop_cell(description: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> Cell:
    """Removes a cell's arrays from ``arrays`` and returns the cell."""
    params_type = CELLS[description["cell"]].params
    leaves = {}
    for name, dtype in description["arrays"].items():
        array = arrays.pop(prefix + name)
        if array.dtype.name != dtype:
            raise ValueError(f"{prefix}{name} is {array.dtype}, but its metadata say {dtype}")
        leaves[name] = jnp.asarray(array)
    static = {
        field.name: description[field.name]
        for field in dataclasses.fields(params_type)
        if field.metadata.get("static")
    }
    cell = params_type(**leaves, **static)
    cell.validate()
    for size in ("input_size", "hidden_size"):
        if getattr(cell, size) != description[size]:
            raise ValueError(
                f"{prefix}{size} is {getattr(cell, size)}, but its metadata say {description[size]}"
            )
    return cell
