"""A trained model in the formats of `export`."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.export_spec import ExportSpec
from experiments.models.recurrent import Network
from experiments.typing import Params
from gru_jax import export
from gru_jax.interop import safetensors, torch

Written = dict[str, bytes]


def to_onnx(config: ExperimentConfig, spec: ExportSpec | None, params: Params) -> Written:
    """model.onnx: the whole model, its GRUs as nodes of ONNX's own operator.

    The inputs are `inputs`, `h0` and, for tasks with lengths, `lengths`; the last two are optional.
    The outputs are `outputs` and the states `h_last` (layers * directions, batch, hidden).
    """
    spec, network = _require_gru_network(config, spec, "onnx")
    from gru_jax.interop.onnx.layers import add_layers
    from gru_jax.interop.onnx.writer import Writer

    stack = network.stack(params)
    writer = Writer("float32")
    inputs = writer.input("inputs", spec.inputs, dtype=spec.dtype)
    batch_major = _embed(writer, network, params, spec.pre_post.onnx_before(writer, inputs))
    xs = writer.node("Transpose", batch_major, perm=[1, 0, 2])
    lengths = "lengths" if spec.lengths else None
    layers = add_layers(writer, stack, xs, h0="h0", lengths=lengths)
    directions, hidden = len(stack.layers[-1]), config.model.hidden_size
    features = layers.outputs
    if network.reads_last_step:
        begin, end, axis = writer.integers(-directions), writer.integers(2**31), writer.integers(0)
        features = writer.node("Slice", layers.states, begin, end, axis)
    features = writer.node("Transpose", features, perm=[1, 0, 2])
    if network.reads_last_step:
        features = writer.node("Reshape", features, writer.integers(0, directions * hidden))
    kernel, bias = map(writer.constant, network.readout(params))
    outputs = writer.node("Add", writer.node("MatMul", features, kernel), bias)
    outputs = spec.pre_post.onnx_after(writer, inputs, outputs)
    writer.output("outputs", outputs, spec.outputs)
    states = len(stack.layers) * directions
    writer.output("h_last", layers.states, [states, "sequences", hidden])
    metadata = {
        "task": config.task,
        "config": config.model_dump_json(),
        **{key: json.dumps(value) for key, value in spec.metadata.items()},
    }
    return {"model.onnx": writer.finish(None, metadata).SerializeToString()}


def _embed(writer: Any, network: Network, params: Params, inputs: str) -> str:
    """Adds the embeddings of the last features (batch, time, in_features)."""
    tables = network.embeddings(params)
    if not tables:
        return inputs
    last = writer.integers(2)
    first, end = writer.integers(-len(tables)), writer.integers(2**31)
    columns = [writer.node("Slice", inputs, writer.integers(0), first, last)]
    indices = writer.cast(writer.node("Slice", inputs, first, end, last), "int64")
    for place, table in enumerate(tables):
        begin, after = writer.integers(place), writer.integers(place + 1)
        index = writer.node("Slice", indices, begin, after, last)
        index = writer.node("Squeeze", index, last)
        columns.append(writer.node("Gather", writer.constant(table), index))
    return writer.node("Concat", *columns, axis=-1)


def to_stablehlo(config: ExperimentConfig, spec: ExportSpec | None, params: Params) -> Written:
    """model.zip: the whole model, `inputs -> outputs`, or `(inputs, lengths) -> outputs`.

    For a unidirectional network with a readout at every step also step.zip, the streaming step:
    `(state, x) -> (state, outputs)`, where x is the input of one step, without a time axis.
    """
    spec = _require_spec(config, spec, "stablehlo")
    names = [size for size in dict.fromkeys(spec.inputs) if isinstance(size, str)]
    sizes: dict[Any, Any] = dict(
        zip(names, jax.export.symbolic_shape(", ".join(names)), strict=True)
    )
    shape = tuple(sizes.get(size, size) for size in spec.inputs)
    inputs = jax.ShapeDtypeStruct(shape, spec.dtype)
    lengths = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    metadata = {"task": config.task, "config": config.model_dump(), **spec.metadata}

    def model(inputs: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        return spec.apply(params, inputs, lengths)

    arguments = [inputs, lengths] if spec.lengths else [inputs]
    written = {
        "model.zip": export.export_function(
            model, arguments, metadata={"function": "model", **metadata}
        )
    }
    network = spec.network
    if network is None or network.reads_last_step or config.model.bidirectional:
        return written
    if not spec.streams:
        return written

    stack = network.stack(params)

    def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        before = spec.pre_post.before(x[:, None])
        xs = network.embed(params, before).swapaxes(0, 1)
        states, ys = gru_jax.unroll_stack(stack, xs, export.state_from_tuples(stack, state))
        outputs = network.read_out(params, ys[0])[:, None]
        return export.state_to_tuples(states), spec.pre_post.after(x[:, None], outputs)[:, 0]

    state = export.state_shapes(stack, shape[:1])
    x = jax.ShapeDtypeStruct((shape[0], *shape[2:]), spec.dtype)
    written["step.zip"] = export.export_function(
        step, [state, x], metadata={"function": "step", **metadata}
    )
    return written


def to_safetensors(config: ExperimentConfig, spec: ExportSpec | None, params: Params) -> Written:
    """model.safetensors: all parameters under their paths, such as recurrent.layers.0.0.w_x.

    For a task with a :class:`Network` also recurrent.safetensors, its :class:`gru_jax.Stack`, which
    :func:`gru_jax.interop.safetensors.load` reads.
    """
    arrays = {
        ".".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    written = {"model.safetensors": _save(arrays, config)}
    if spec is not None and spec.network is not None:
        written["recurrent.safetensors"] = safetensors.dump(spec.network.stack(params))
    return written


def to_torch(config: ExperimentConfig, spec: ExportSpec | None, params: Params) -> Written:
    """torch.safetensors: a state dict of a module with a GRU `recurrent` and a Linear `readout`."""
    _, network = _require_gru_network(config, spec, "torch")
    try:
        arrays = torch.dump(network.stack(params), prefix="recurrent.", tensors=False)
    except ValueError as error:
        raise UserError(f"This run cannot be exported for torch: {error}.") from None
    kernel, bias = network.readout(params)
    arrays |= {"readout.weight": kernel.T, "readout.bias": bias}
    return {"torch.safetensors": _save(arrays, config)}


class Format(NamedTuple):
    """An export format: its writer, and the package of the extra `files` that it needs."""

    write: Callable[[ExperimentConfig, ExportSpec | None, Params], Written]
    package: str


FORMATS = {
    "onnx": Format(to_onnx, "onnx"),
    "stablehlo": Format(to_stablehlo, "flatbuffers"),
    "safetensors": Format(to_safetensors, "safetensors"),
    "torch": Format(to_torch, "safetensors"),
}


def _save(arrays: dict[str, Any], config: ExperimentConfig) -> bytes:
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {"task": config.task, "config": config.model_dump_json()}
    from safetensors.numpy import save

    return save(contiguous, metadata)


def _require_spec(config: ExperimentConfig, spec: ExportSpec | None, name: str) -> ExportSpec:
    if spec is None:
        raise UserError(
            f"A run of {config.task} cannot be exported to {name}: it computes a search, not a "
            "single forward pass. --to safetensors exports its parameters."
        )
    return spec


def _require_gru_network(
    config: ExperimentConfig, spec: ExportSpec | None, name: str
) -> tuple[ExportSpec, Network]:
    """Returns the spec and its network; raises UserError unless it is a network of GRUs."""
    spec = _require_spec(config, spec, name)
    if spec.network is None:
        raise UserError(
            f"A run of {config.task} cannot be exported to {name}, which has no operator for its "
            "cells. Supported are --to stablehlo and --to safetensors."
        )
    if config.model.cell != "gru":
        raise UserError(
            f"A run of {config.model.cell} cells cannot be exported to {name}: only GRUs can. "
            "Supported are --to stablehlo and --to safetensors."
        )
    return spec, spec.network
