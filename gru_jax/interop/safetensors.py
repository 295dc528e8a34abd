"""Our own parameters on disk: a .safetensors file that says what is in it."""

import dataclasses
import json
import os
import struct
from typing import Any

import jax.numpy as jnp
import numpy as np

from gru_jax.cells import Cell, GRUParams, LSTMParams, RNNParams
from gru_jax.cells.packed import PackedCell
from gru_jax.interop.files import (
    file_errors,
    import_optional,
    is_path,
    parse_safetensors,
    read_bytes,
)
from gru_jax.interop.gate_layout import validate_stack
from gru_jax.stack import Stack

FORMAT = "gru_jax"
VERSION = 1
CELLS: dict[str, type[PackedCell]] = {"gru": GRUParams, "lstm": LSTMParams, "rnn": RNNParams}

EQUATIONS = {
    "gru, reset after": "r = sigmoid(x W_r + h U_r + b_r); z = sigmoid(x W_z + h U_z + b_z); "
    "n = tanh(x W_n + b_n + r * (h U_n + b_hn)); h' = n + z * (h - n)",
    "gru, reset before": "r = sigmoid(x W_r + h U_r + b_r); z = sigmoid(x W_z + h U_z + b_z); "
    "n = tanh(x W_n + b_n + (r * h) U_n); h' = n + z * (h - n)",
    "lstm": "i = sigmoid(x W_i + h U_i + b_i); f = sigmoid(x W_f + h U_f + b_f); "
    "g = tanh(x W_g + h U_g + b_g); o = sigmoid(x W_o + h U_o + b_o); "
    "c' = f * c + i * g; h' = o * tanh(c')",
    "rnn": "h' = tanh(x W + h U + b)",
}


def load(theirs: str | os.PathLike[str] | bytes) -> Cell | Stack:
    """Our parameters from a file that :func:`dump` made.

    Args:
        theirs: the file's path, or its content.

    Returns:
        GRUParams, LSTMParams, RNNParams, or a Stack of them, equal to what was dumped; float64
        only under x64.

    Raises:
        FileError: the file cannot be read, is none of ours, was made by a later version, or does
            not hold what it says; a ValueError that names it.
        ValueError: the same for a content.
        ImportError: safetensors is not installed.
    """
    if is_path(theirs):
        with file_errors(theirs):
            return load(read_bytes(theirs))
    if not isinstance(theirs, bytes):
        raise TypeError(f"expected a path or a file's content, got {type(theirs).__name__}")
    arrays = parse_safetensors(theirs)
    model = _model_of(theirs)
    try:
        ours = _load_model(model, arrays)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its metadata describe no model: {error!r}") from error
    if arrays:
        raise ValueError(f"its metadata name no {', '.join(arrays)}")
    return ours


def dump(ours: Cell | Stack) -> bytes:
    """The content of a .safetensors file from our parameters.

    Its metadata hold, as text, ``format`` and ``version`` of this layout, the ``equation`` of
    each kind of cell, and ``model``: JSON with the kind, sizes and dtype of each cell, and how
    a stack joins them.

    Args:
        ours: GRUParams, LSTMParams, RNNParams, or a Stack of them.

    Raises:
        TypeError: another kind of cell.
        ImportError: safetensors is not installed.
    """
    numpy_format = import_optional("safetensors.numpy")
    arrays: dict[str, np.ndarray] = {}
    if isinstance(ours, Stack):
        ours.validate()
        model: dict[str, Any] = {
            "merge": ours.merge,
            "residual": ours.residual,
            "layers": [
                [
                    _dump_cell(cell, arrays, f"layers.{index}.{direction}.")
                    for direction, cell in enumerate(layer)
                ]
                for index, layer in enumerate(ours.layers)
            ],
        }
        cells = [cell for layer in model["layers"] for cell in layer]
    else:
        model = _dump_cell(ours, arrays, "")
        cells = [model]
    metadata = {"format": FORMAT, "version": str(VERSION), "model": json.dumps(model)}
    equations = sorted({EQUATIONS[_equation_name(cell)] for cell in cells})
    return numpy_format.save(arrays, metadata | {"equation": " | ".join(equations)})


def _dump_cell(cell: Any, arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Adds a cell's arrays to the others, and returns what describes it."""
    kinds = {kind: name for name, kind in CELLS.items()}
    if type(cell) not in kinds:
        known = ", ".join(kind.__name__ for kind in CELLS.values())
        raise TypeError(f"expected {known} or a Stack of them, got {type(cell).__name__}")
    cell.validate()
    described: dict[str, Any] = {
        "cell": kinds[type(cell)],
        "input_size": cell.input_size,
        "hidden_size": cell.hidden_size,
        "arrays": {},
    }
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if field.metadata.get("static"):
            described[field.name] = value
        elif value is not None:
            array = np.ascontiguousarray(value)
            arrays[prefix + field.name] = array
            described["arrays"][field.name] = array.dtype.name
    return described


def _model_of(data: bytes) -> dict[str, Any]:
    """What the metadata of a file, which is known to be a valid one, say of the model."""
    (size,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"its metadata say format {metadata.get('format')!r}, expected {FORMAT!r}; weights of "
            "PyTorch are read by gru_jax.interop.torch"
        )
    if metadata.get("version") != str(VERSION):
        raise ValueError(f"its version is {metadata.get('version')!r}, known is {str(VERSION)!r}")
    try:
        model = json.loads(metadata.get("model", ""))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the model in its metadata is no JSON: {error}") from error
    if not isinstance(model, dict):
        raise ValueError(f"the model in its metadata is {type(model).__name__}, not an object")
    return model


def _load_model(model: dict[str, Any], arrays: dict[str, np.ndarray]) -> Cell | Stack:
    if "layers" not in model:
        return _load_cell(model, arrays, "")
    if not isinstance(model["residual"], bool):
        raise TypeError(f"residual is {model['residual']!r}")
    layers = tuple(
        tuple(
            _load_cell(cell, arrays, f"layers.{index}.{direction}.")
            for direction, cell in enumerate(layer)
        )
        for index, layer in enumerate(model["layers"])
    )
    return validate_stack(Stack(layers, merge=model["merge"], residual=model["residual"]))


def _load_cell(described: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> PackedCell:
    """Takes a cell's arrays out of the others."""
    kind = CELLS[described["cell"]]
    leaves = {}
    for name, dtype in described["arrays"].items():
        array = arrays.pop(prefix + name)
        if array.dtype.name != dtype:
            raise ValueError(f"{prefix}{name} is {array.dtype}, where its metadata say {dtype}")
        leaves[name] = jnp.asarray(array)
    static = {
        field.name: described[field.name]
        for field in dataclasses.fields(kind)
        if field.metadata.get("static")
    }
    cell = kind(**leaves, **static)
    cell.validate()
    for size in ("input_size", "hidden_size"):
        if getattr(cell, size) != described[size]:
            raise ValueError(f"{prefix}{size} is {getattr(cell, size)}, not {described[size]}")
    return cell


def _equation_name(described: dict[str, Any]) -> str:
    reset = f", reset {described['reset']}" if "reset" in described else ""
    return described["cell"] + reset
