"""Writes a stack of GRUs as nodes of an ONNX graph."""

from typing import NamedTuple, TypeAlias, cast

import jax
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.gate_layout import class_name, validate_stack
from gru_jax.interop.onnx.cell import dump_cells
from gru_jax.interop.onnx.writer import TYPES, Writer
from gru_jax.stack import Stack

NO_LIMIT = np.iinfo(np.int32).max

Cells: TypeAlias = tuple[tuple[GRUParams, ...], ...]


class LayerOutputs(NamedTuple):
    """Names of the outputs (time, batch, output) and states (layers * directions, batch, H)."""

    outputs: str
    states: str


def cells_of(stack: Stack) -> Cells:
    """The cells of a stack that the operator GRU supports.

    Raises:
        TypeError: a cell is not a GRUParams.
        ValueError: the cells do not fit together, or differ in hidden size, ``reset`` or number of
            directions.
    """
    for layer in stack.layers:
        for cell in layer:
            if type(cell) is not GRUParams:
                raise TypeError(
                    f"onnx: expected gru_jax.GRUParams or a Stack of them, got {class_name(cell)}"
                )
    cells = cast(Cells, validate_stack(stack).layers)
    kinds = {(len(layer), cell.hidden_size, cell.reset) for layer in cells for cell in layer}
    if len(kinds) > 1:
        raise ValueError(
            "all layers must have the same number of directions, hidden size and reset; got "
            f"{', '.join(map(str, sorted(kinds)))}"
        )
    return cells


def dtype_of(stack: Stack) -> str:
    """The widest dtype of a stack's parameters; TypeError if the operator does not support it."""
    found = {str(leaf.dtype) for leaf in jax.tree.leaves(stack)}
    if not found <= set(TYPES):
        raise TypeError(
            f"ONNX's GRU supports {', '.join(TYPES)}; got parameters of {', '.join(found)}"
        )
    return max(found, key=list(TYPES).index)


def add_layers(
    writer: Writer,
    stack: Stack,
    xs: str,
    *,
    h0: str | None,
    lengths: str | None,
    reverse: bool = False,
    single: bool = False,
) -> LayerOutputs:
    """Adds a stack's layers and their optional inputs to a graph.

    Args:
        writer: the graph.
        stack: the cells.
        xs: name of the inputs (time, batch, input).
        h0: name of the optional input of initial states; None omits it.
        lengths: name of the optional input of lengths; None omits it.
        reverse: read from the last valid step to the first.
        single: whether the initial state has the shape (batch, hidden) of a single cell.

    Raises:
        TypeError, ValueError: as :func:`cells_of`.
    """
    layers = cells_of(stack)
    shape = writer.node("Shape", xs)
    time, batch = (writer.node("Gather", shape, writer.integers(axis)) for axis in (0, 1))
    states = _states(writer, layers, h0, batch, single=single, required=lengths is not None)
    limits = _limits(writer, lengths, time, batch)
    is_empty = ""
    if limits:
        is_empty = writer.node("Equal", limits, writer.constant(0, "int32"))
        is_empty = writer.node("Unsqueeze", is_empty, writer.integers(1))

    directions, last = len(layers[0]), []
    direction = "bidirectional" if directions == 2 else "reverse" if reverse else "forward"
    for index, cells in enumerate(layers):
        first = states
        if states and len(layers) > 1:
            begin, end = (writer.integers(directions * (index + more)) for more in (0, 1))
            first = writer.node("Slice", states, begin, end, writer.integers(0))
        arrays = dump_cells(cells, writer.dtype)
        outputs, after = writer.nodes(
            "GRU",
            xs,
            *(writer.constant(array) for array in arrays.values()),
            *([""] if "B" not in arrays else []),
            limits,
            first,
            outputs=2,
            direction=direction,
            hidden_size=cells[0].hidden_size,
            linear_before_reset=int(cells[0].reset == "after"),
        )
        last.append(writer.node("Where", is_empty, first, after) if limits else after)
        outputs = _merge(writer, outputs, stack.merge, directions, cells[0].hidden_size)
        xs = writer.node("Add", outputs, xs) if stack.residual and index else outputs
    return LayerOutputs(xs, writer.node("Concat", *last, axis=0) if len(last) > 1 else last[0])


def _limits(writer: Writer, lengths: str | None, time: str, batch: str) -> str:
    """The lengths (batch,), clipped to [0, time]; "" without lengths."""
    if lengths is None:
        return ""
    default = np.array([NO_LIMIT], np.int32)
    given = writer.optional_input(lengths, ["batch or 1"], default, "int32")
    each = writer.node("Expand", given, batch)
    limited = writer.node("Min", each, writer.cast(time, "int32"))
    return writer.node("Max", limited, writer.constant(0, "int32"))


def _states(
    writer: Writer, layers: Cells, h0: str | None, batch: str, *, single: bool, required: bool
) -> str:
    """The initial states (layers * directions, batch, H); "" if zeros suffice."""
    cells = [cell for layer in layers for cell in layer]
    hidden = cells[0].hidden_size
    if h0 is None and not required and all(cell.h0 is None for cell in cells):
        return ""
    default = np.stack(
        [
            np.zeros((1, hidden)) if cell.h0 is None else np.asarray(cell.h0, float)[None]
            for cell in cells
        ]
    ).astype(writer.dtype)
    if h0 is None:
        given = writer.constant(default)
    elif single:
        given = writer.optional_input(h0, ["batch or 1", hidden], default[0])
        given = writer.node("Unsqueeze", given, writer.integers(0))
    else:
        given = writer.optional_input(h0, [len(cells), "batch or 1", hidden], default)
    one = writer.integers(1)
    return writer.node("Expand", given, writer.node("Concat", one, batch, one, axis=0))


def _merge(writer: Writer, outputs: str, merge: str, directions: int, hidden: int) -> str:
    """Combines outputs (time, directions, batch, H) to (time, batch, output)."""
    if directions == 1:
        return writer.node("Squeeze", outputs, writer.integers(1))
    if merge == "concat":
        swapped = writer.node("Transpose", outputs, perm=[0, 2, 1, 3])
        return writer.node("Reshape", swapped, writer.integers(0, 0, directions * hidden))
    if merge == "sum":
        return writer.node("ReduceSum", outputs, writer.integers(1), keepdims=0)
    operator = {"mean": "ReduceMean", "product": "ReduceProd"}[merge]
    return writer.node(operator, outputs, axes=[1], keepdims=0)
