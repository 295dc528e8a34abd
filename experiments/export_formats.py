"""A trained model in the formats of `export`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.export_spec import Serving
from experiments.models.recurrent import Network
from experiments.task import Params
from gru_jax import export
from gru_jax.interop import safetensors, torch
from gru_jax.interop.files import needed

Written = dict[str, bytes]


def to_onnx(config: ExperimentConfig, serving: Serving | None, params: Params) -> Written:
    """model.onnx: the whole model, its GRUs as nodes of ONNX's own operator.

    The inputs are `inputs`, where the task has them `lengths`, and `h0`; the last two may be left
    out. The outputs are `outputs` and the states `h_last` (layers * directions, batch, hidden).
    """
    serving, network = _network(config, serving, "onnx")
    needed("onnx")
    from gru_jax.interop.onnx.layers import add_layers
    from gru_jax.interop.onnx.writer import Writer

    stack = network.stack(params)
    writer = Writer("float32")
    given = writer.input("inputs", serving.inputs, dtype=serving.dtype)
    features = serving.ends.write_before(writer, given)
    xs = writer.node("Transpose", features, perm=[1, 0, 2])
    lengths = "lengths" if serving.lengths else None
    layers = add_layers(writer, stack, xs, h0="h0", lengths=lengths)
    directions, hidden = len(stack.layers[-1]), config.model.hidden_size
    shown = layers.outputs
    if network.reads_last_step:
        begin, end, axis = writer.integers(-directions), writer.integers(2**31), writer.integers(0)
        shown = writer.node("Slice", layers.states, begin, end, axis)
    shown = writer.node("Transpose", shown, perm=[1, 0, 2])
    if network.reads_last_step:
        shown = writer.node("Reshape", shown, writer.integers(0, directions * hidden))
    kernel, bias = map(writer.constant, network.readout(params))
    outputs = writer.node("Add", writer.node("MatMul", shown, kernel), bias)
    outputs = serving.ends.write_after(writer, given, outputs)
    writer.output("outputs", outputs, serving.outputs)
    states = len(stack.layers) * directions
    writer.output("h_last", layers.states, [states, "sequences", hidden])
    notes = {"task": config.task, "config": config.model_dump_json()}
    return {"model.onnx": writer.finish(None, notes).SerializeToString()}


def to_stablehlo(config: ExperimentConfig, serving: Serving | None, params: Params) -> Written:
    """model.zip: the whole model, `inputs -> outputs`, or `(inputs, lengths) -> outputs`.

    Beside it, of a network that reads forward and is read out at every step, step.zip: the
    streaming step, `(state, x) -> (state, outputs)`, x being a step's inputs without time.
    """
    serving = _served(config, serving, "stablehlo")
    names = [size for size in dict.fromkeys(serving.inputs) if isinstance(size, str)]
    sizes: dict[Any, Any] = dict(
        zip(names, jax.export.symbolic_shape(", ".join(names)), strict=True)
    )
    shape = tuple(sizes.get(size, size) for size in serving.inputs)
    inputs = jax.ShapeDtypeStruct(shape, serving.dtype)
    lengths = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    note = {"task": config.task, "config": config.model_dump()}

    def model(inputs: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        return serving.apply(params, inputs, lengths)

    arguments = [inputs, lengths] if serving.lengths else [inputs]
    written = {
        "model.zip": export.export_function(model, arguments, note={"function": "model", **note})
    }
    network = serving.network
    if network is None or network.reads_last_step or config.model.bidirectional:
        return written

    stack = network.stack(params)

    def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        xs = serving.ends.before(x[:, None]).swapaxes(0, 1)
        states, ys = gru_jax.unroll_stack(stack, xs, export.named_state(stack, state))
        return export.plain_state(states), network.read_out(params, ys[0])

    state = export.state_shapes(stack, shape[:1])
    x = jax.ShapeDtypeStruct((shape[0], *shape[2:]), serving.dtype)
    written["step.zip"] = export.export_function(
        step, [state, x], note={"function": "step", **note}
    )
    return written


def to_safetensors(config: ExperimentConfig, serving: Serving | None, params: Params) -> Written:
    """model.safetensors: all parameters under their paths, such as recurrent.layers.0.0.w_x.

    Beside it, where the recurrent layers are a :class:`gru_jax.Stack`, recurrent.safetensors, which
    :func:`gru_jax.interop.safetensors.load` reads.
    """
    arrays = {
        ".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    written = {"model.safetensors": _save(arrays, config)}
    if serving is not None and serving.network is not None:
        written["recurrent.safetensors"] = safetensors.dump(serving.network.stack(params))
    return written


def to_torch(config: ExperimentConfig, serving: Serving | None, params: Params) -> Written:
    """torch.safetensors: a state dict of a module with a GRU `recurrent` and a Linear `readout`."""
    _, network = _network(config, serving, "torch")
    try:
        arrays = torch.dump(network.stack(params), prefix="recurrent.", tensors=False)
    except ValueError as error:
        raise UserError(f"This run cannot be exported for torch: {error}.") from None
    kernel, bias = network.readout(params)
    arrays |= {"readout.weight": kernel.T, "readout.bias": bias}
    return {"torch.safetensors": _save(arrays, config)}


FORMATS: dict[str, Callable[[ExperimentConfig, Serving | None, Params], Written]] = {
    "onnx": to_onnx,
    "stablehlo": to_stablehlo,
    "safetensors": to_safetensors,
    "torch": to_torch,
}


def _save(arrays: dict[str, Any], config: ExperimentConfig) -> bytes:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"task": config.task, "config": config.model_dump_json()}
    return needed("safetensors.numpy").save(contiguous, metadata)


def _served(config: ExperimentConfig, serving: Serving | None, name: str) -> Serving:
    if serving is None:
        raise UserError(
            f"A run of {config.task} cannot be exported to {name}: what it computes is a search, "
            "and not one pass of a network. Its parameters can: --to safetensors."
        )
    return serving


def _network(
    config: ExperimentConfig, serving: Serving | None, name: str
) -> tuple[Serving, Network]:
    """The serving and its network; UserError unless that is one of GRUs."""
    serving = _served(config, serving, name)
    if serving.network is None:
        raise UserError(
            f"A run of {config.task} cannot be exported to {name}, which has no operator for its "
            "cells. Possible are --to stablehlo and --to safetensors."
        )
    if config.model.cell != "gru":
        raise UserError(
            f"A run of {config.model.cell} cells cannot be exported to {name}: only GRUs can. "
            "Possible are --to stablehlo and --to safetensors."
        )
    return serving, serving.network
