"""Parameters into an ONNX model whose recurrent layers are GRU nodes."""

import os

import onnx

from gru_jax.cells import GRUParams
from gru_jax.interop.onnx.layers import add_layers, cells_of, dtype_of
from gru_jax.interop.onnx.writer import Writer
from gru_jax.stack import Stack


def dump(
    ours: GRUParams | Stack,
    path: str | os.PathLike[str] | None = None,
    *,
    xs: str = "xs",
    h0: str | None = "h0",
    lengths: str | None = "lengths",
    ys: str = "ys",
    h_last: str | None = "h_last",
    reverse: bool = False,
) -> onnx.ModelProto:
    """A model that computes what :func:`gru_jax.unroll` or :func:`gru_jax.unroll_stack` does.

    Its layers are nodes of ONNX's operator GRU, for any number of steps and of sequences; at no
    sequence onnxruntime 1.31 crashes in the operator. The type is float32, float64 or float16, the
    widest of the parameters'; onnxruntime's operator runs in float32. Of inputs that may be left
    out onnxruntime warns that they are no constants; without them it has nothing to warn of.

    Args:
        ours: a GRU, or a stack of GRUs of one equation and one hidden size.
        path: of a file to write, whole or not at all; None writes none.
        xs: name of the inputs (time, batch, input).
        h0: name of the initial states, an input that may be left out: (batch, hidden), or of a
            stack (layers * directions, batch, hidden), layer by layer, forward before backward.
            Left out, they are zero or the learned ones; a batch of 1 is that of every sequence.
            None: there is no such input.
        lengths: name of the lengths (batch,), int32, an input that may be left out as well; they
            are clipped to [0, time]. None: there is no such input.
        ys: name of the outputs (time, batch, hidden), zero from a sequence's length on.
        h_last: name of the last states, of the shape of ``h0``; None: there is no such output. A
            sequence of length 0 ends in its initial state, for which there are nodes of their
            own: the operator gives 0 in onnxruntime.
        reverse: read from the last valid step to the first; for layers of one direction.

    Returns:
        The model, of opset 17, which ``onnx.checker`` has validate_stack.

    Raises:
        TypeError: cells that are no GRUs, or of a dtype that the operator has not.
        ValueError: parameters that do not fit together, or that the operator cannot hold.
        OSError: the file cannot be written.
    """
    names = [name for name in (xs, h0, lengths, ys, h_last) if name is not None]
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise ValueError(f"the names of inputs and outputs must be texts and differ, got {names}")
    single = not isinstance(ours, Stack)
    stack = Stack(((ours,),)) if single else ours
    layers = cells_of(stack)
    directions, hidden = len(layers[0]), layers[0][0].hidden_size
    if reverse and directions == 2:
        raise ValueError("reverse=True asks for layers of one direction, these have two")
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
    notes = {"kind": type(ours).__name__, "learned_h0": str(learned).lower()}
    return writer.finish(path, notes)
