"""Converts the GRU nodes of an ONNX model to parameters."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import onnx

from gru_jax.cells import GRUParams
from gru_jax.interop.files import file_errors
from gru_jax.interop.gate_layout import validate_stack
from gru_jax.interop.onnx.cell import check_shared, load_cells
from gru_jax.interop.onnx.file import ModelSource, RawData, open_model
from gru_jax.interop.onnx.graph import Graph, Node
from gru_jax.interop.onnx.rules import Constant, GruOutputs, Value
from gru_jax.stack import Merge, Stack

MIN_OPSET = 7


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Parameters of a model's GRU nodes, and how the model runs them.

    Attributes:
        params: a :class:`gru_jax.GRUParams` for one node of one direction, otherwise a
            :class:`gru_jax.Stack`.
        reverse: whether the nodes read backward, as ``reverse=True`` of :func:`gru_jax.unroll`.
        nodes: the nodes' names, from the first layer to the last.
        given_lengths: whether the model reads or computes lengths at run time.
        given_states: whether the model reads or computes initial states at run time.
    """

    params: GRUParams | Stack
    reverse: bool
    nodes: tuple[str, ...]
    given_lengths: bool
    given_states: bool


def load(
    source: ModelSource,
    *,
    nodes: Sequence[str] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> GRUParams | Stack:
    """Loads the parameters of a model's GRU nodes.

    Consecutive nodes are the layers of a stack. The operators that exporters write between them
    (Squeeze, Transpose, Reshape, ReduceSum, ReduceMean or ReduceProd over directions, a residual
    Add, a Concat of a forward and a reverse node) determine how the layers are combined. A constant
    initial state becomes the learned ``h0``. Lengths, other initial states, the order of axes and
    the direction are not parameters but arguments of :func:`gru_jax.unroll`; :func:`read` returns
    them.

    PyTorch's exporter writes such nodes (``torch.onnx.export(..., dynamo=False)``), and so does
    tf2onnx for Keras 2 layers with ``reset_after=True``. For Keras 3 layers tf2onnx writes a Loop;
    load those with :func:`gru_jax.interop.keras.load`.

    Args:
        source: a path, the bytes of a file or an ``onnx.ModelProto``, of opset 7 or newer. Weights
            may be float32, float64 (kept only under x64), float16 or bfloat16. External files
            must be within the model's directory.
        nodes: names of the nodes to load (or of their first outputs), for a model with several
            nodes that are not layers of one stack; None loads all.
        weights: arrays by name, for weights that are inputs of the model.

    Returns:
        GRUParams for one node of one direction, otherwise a Stack. ``linear_before_reset=1`` is
        ``reset="after"``, 0 is ``"before"``.

    Raises:
        FileError: the file cannot be read or its model is not valid; a ValueError that names it.
        TypeError: an argument of the wrong type.
        ValueError: a corrupted model, one without GRU nodes, or one with attributes that are not
            supported, such as other activations or ``clip``.
    """
    return read(source, nodes=nodes, weights=weights).params


def read(
    source: ModelSource,
    *,
    nodes: Sequence[str] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Like :func:`load`; also returns how the model runs the parameters."""
    if isinstance(nodes, str):
        raise TypeError(f"nodes must be a list of names, got {nodes!r}")
    if not isinstance(source, (str, os.PathLike)):
        return _read(*open_model(source), None, nodes, weights or {})
    with file_errors(source):
        return _read(*open_model(source), Path(source).parent, nodes, weights or {})


def _read(
    model: onnx.ModelProto,
    raw_data: RawData,
    directory: Path | None,
    nodes: Sequence[str] | None,
    weights: Mapping[str, Any],
) -> LoadedModel:
    _check_opset(model)
    graph = Graph(model, raw_data, directory, weights)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    layers = _in_order(graph, _chosen(graph, nodes))
    all_nodes = [node for layer in layers for node in layer]
    learned_h0 = metadata.get("gru_jax.learned_h0") == "true"
    check_shared(all_nodes)
    cells = tuple(
        tuple(cell for node in layer for cell in load_cells(node, learned_h0=learned_h0))
        for layer in layers
    )
    params: GRUParams | Stack
    if list(map(len, cells)) == [1] and metadata.get("gru_jax.kind") != "Stack":
        params = cells[0][0]
    else:
        params = validate_stack(Stack(cells, *_joined(graph, layers)))
    return LoadedModel(
        params,
        _is_reverse(layers),
        tuple(node.name for node in all_nodes),
        given_lengths=any(_is_given(node.input(4)) for node in all_nodes),
        given_states=any(_is_given(node.input(5)) for node in all_nodes),
    )


def _check_opset(model: onnx.ModelProto) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] < MIN_OPSET:
        raise ValueError(f"its opset versions are {versions}, expected one of at least {MIN_OPSET}")


def _chosen(graph: Graph, names: Sequence[str] | None) -> list[int]:
    """The indices of the named nodes, or of all nodes."""
    if not graph.nodes:
        if nested := graph.nested():
            raise ValueError(f"there is no GRU node in its graph; there is one within {nested}")
        raise ValueError(
            "there is no GRU node in its graph; one that was written as a loop, or as a matmul and "
            "sigmoids for each step, is not recognised"
        )
    if names is None:
        return list(range(len(graph.nodes)))
    names_in_model = [node.name for node in graph.nodes]
    for name in names:
        if names_in_model.count(name) != 1:
            raise ValueError(f"nodes has {name!r}, but the model's GRU nodes are {names_in_model}")
    return sorted(map(names_in_model.index, names))


def _in_order(graph: Graph, chosen: Sequence[int]) -> list[list[Node]]:
    """The nodes by layer, from the first layer to the last; in a layer forward before reverse."""
    wanted = set(chosen)
    pairs = [key for key in graph.latest_form if len(key) == 2 and wanted.issuperset(key)]
    paired = {place for pair in pairs for place in pair}
    keys = [*pairs, *((place,) for place in chosen if place not in paired)]
    known = set(keys)
    following: dict[tuple[int, ...] | None, tuple[int, ...]] = {}
    for key in keys:
        source = graph.nodes[key[0]].input(0)
        before = source.nodes if _is_layer(source, graph.nodes[key[0]]) else None
        following[before if before in known else None] = key
    order: list[tuple[int, ...]] = []
    while (following_key := following.get(order[-1] if order else None)) is not None:
        order.append(following_key)
    if len(order) != len(keys) or len(paired) != 2 * len(pairs):
        names = [graph.nodes[place].name for place in chosen]
        raise ValueError(
            f"its GRU nodes {names} are not layers of one stack; choose some by nodes=[...]"
        )
    return [[graph.nodes[place] for place in key] for key in order]


def _is_layer(source: Value | None, node: Node) -> TypeGuard[GruOutputs]:
    """Whether a node's input is the output of a layer, with the axes that a stack's layer reads."""
    outer = [axis for axis in node.outputs.axes if axis in ("time", "batch")]
    return isinstance(source, GruOutputs) and source.axes == (*outer, "features")


def _is_reverse(layers: list[list[Node]]) -> bool:
    alone = {layer[0].outputs.directions[0] for layer in layers if len(layer) == 1}
    if "reverse" not in alone:
        return False
    if len(alone) > 1 or any(len(layer) == 2 for layer in layers):
        names = [node.name for layer in layers for node in layer]
        raise ValueError(f"of its GRU nodes {names}, some read only backward and others do not")
    return True


def _joined(graph: Graph, layers: list[list[Node]]) -> tuple[Merge, bool]:
    """A stack's ``merge`` and ``residual``."""
    merges: set[Merge] = set()
    residuals: set[bool] = set()
    for place, layer in enumerate(layers):
        form = graph.latest_form[tuple(node.outputs.nodes[0] for node in layer)]
        if place + 1 < len(layers):
            source = layers[place + 1][0].input(0)
            form = source if isinstance(source, GruOutputs) else form
        if form.merge is not None:
            merges.add(form.merge)
        if place and "features" in form.axes:
            residuals.add(form.residual)
    if len(merges) > 1 or len(residuals) > 1:
        raise ValueError(
            "its layers differ in how their directions or residuals are combined, which a "
            "gru_jax.Stack does not support"
        )
    return (merges.pop() if merges else "concat"), (residuals == {True})


def _is_given(value: Value | None) -> bool:
    return value is not None and not isinstance(value, Constant)
