"""Converts parameters to an ONNX model whose recurrent layers are GRU nodes."""

import os

import onnx

from gru_jax.cells import GRUParams
from gru_jax.interop.onnx.layers import add_layers, cells_of, dtype_of
from gru_jax.interop.onnx.writer import Writer
from gru_jax.stack import Stack


def dump(
    params: GRUParams | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    xs: str = "xs",
    h0: str | None = "h0",
    lengths: str | None = "lengths",
    ys: str = "ys",
    h_last: str | None = "h_last",
    reverse: bool = False,
) -> onnx.ModelProto:
    """Converts parameters to a model that computes ``unroll`` or ``unroll_stack`` of them.

    Each layer is a node of ONNX's operator GRU. The numbers of steps and of sequences are dynamic;
    with no sequence at all, onnxruntime 1.31 crashes in the operator. The dtype is the widest of
    the parameters', float32, float64 or float16; onnxruntime runs the operator in float32.
    Optional inputs have ONNX's type ``optional``, which not every runtime supports; ``h0=None`` and
    ``lengths=None`` omit them.

    Args:
        params: a GRU, or a stack of GRUs with the same ``reset`` and hidden size.
        path: the file to write, atomically; None writes no file.
        xs: name of the inputs (time, batch, input).
        h0: name of the optional input of initial states: (batch, hidden), for a stack
            (layers * directions, batch, hidden), ordered by layer, forward before backward.
            Without the input they are zero or the learned ones; a batch of 1 is broadcast. None
            omits the input.
        lengths: name of the optional input of lengths (batch,), int32, which are clipped to
            [0, time]. None omits the input.
        ys: name of the outputs (time, batch, hidden); they are zero from a sequence's length on.
        h_last: name of the last states, with the shape of ``h0``. None omits the output. The last
            state of a sequence of length 0 is its initial state, which needs extra nodes: in
            onnxruntime the operator gives 0.
        reverse: read from the last valid step to the first; only for layers of one direction.

    Returns:
        The model, of opset 17, checked by ``onnx.checker``.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them, or has a dtype that the
            operator does not support.
        ValueError: parameters that do not fit together, or a feature that the operator lacks.
        OSError: the file cannot be written.
    """
    names = [name for name in (xs, h0, lengths, ys, h_last) if name is not None]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"the names of inputs and outputs must be distinct, non-empty strings; got {names}"
        )
    single = not isinstance(params, Stack)
    stack = Stack(((params,),)) if single else params
    layers = cells_of(stack)
    directions, hidden = len(layers[0]), layers[0][0].hidden_size
    if reverse and directions == 2:
        raise ValueError("reverse=True needs layers of one direction; these have two")
    writer = Writer(dtype_of(stack))
    inputs = writer.input(xs, ["time", "batch", layers[0][0].input_size])
    written = add_layers(
        writer, stack, inputs, h0=h0, lengths=lengths, reverse=reverse, single=single
    )
    width = hidden * directions if stack.merge == "concat" else hidden
    writer.output(ys, written.outputs, ["time", "batch", width])
    if h_last is not None:
        states = written.states
        if single:
            states = writer.node("Squeeze", states, writer.integers(0))
        leading = [] if single else [len(layers) * directions]
        writer.output(h_last, states, [*leading, "batch", hidden])
    learned = any(cell.h0 is not None for layer in layers for cell in layer)
    metadata = {"kind": type(params).__name__, "learned_h0": str(learned).lower()}
    return writer.finish(path, metadata)
