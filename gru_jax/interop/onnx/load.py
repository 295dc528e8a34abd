"""GRU nodes of an ONNX model into parameters."""

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
from gru_jax.interop.onnx.file import ModelSource, open_model
from gru_jax.interop.onnx.graph import Graph, Node
from gru_jax.interop.onnx.rules import Constant, GruOutputs, Merge, Value
from gru_jax.stack import Stack

OLDEST_OPSET = 7


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """What a model's GRU nodes say: parameters, and how they are run.

    Attributes:
        params: a :class:`gru_jax.GRUParams` for one node of one direction, otherwise a
            :class:`gru_jax.Stack`.
        reverse: whether they read backward: ``reverse=True`` of :func:`gru_jax.unroll`.
        nodes: the nodes' names, the first layer first.
        given_lengths: whether the model takes or computes lengths when it is run.
        given_states: likewise initial states.
    """

    params: GRUParams | Stack
    reverse: bool
    nodes: tuple[str, ...]
    given_lengths: bool
    given_states: bool


def load(
    theirs: ModelSource,
    *,
    nodes: Sequence[str] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> GRUParams | Stack:
    """The parameters of a model's GRU nodes.

    Nodes that follow each other are layers of a stack; what exporters write between them (Squeeze,
    Transpose, Reshape, a merge of directions by ReduceSum, ReduceMean or ReduceProd, a residual
    Add, a Concat of a forward and a reverse node) says how they are joined. An initial state that
    is a constant becomes the learned ``h0``. Lengths, initial states that the model is given, the
    order of axes and the direction of reading are no parameters, but arguments of
    :func:`gru_jax.unroll`: :func:`read` tells them.

    PyTorch's exporter writes such nodes (``torch.onnx.export(..., dynamo=False)``), and so does
    tf2onnx of Keras 2's layers with ``reset_after=True``. Of Keras 3's it makes a Loop; what those
    hold is for :func:`gru_jax.interop.keras.load`.

    Args:
        theirs: a path, the bytes of a file or an ``onnx.ModelProto``, of opset 7 or newer. Its
            arrays may be of float32, float64, float16 or bfloat16; float64 stays so under x64.
            Those in further files must lie in the model's directory or below.
        nodes: names of the nodes to take (or of their first outputs), where a model has several
            that are not layers of one stack; None for all.
        weights: arrays by name, for weights that the model takes as inputs.

    Returns:
        GRUParams for one node of one direction, otherwise a Stack. Both equations of the operator
        are ours: ``linear_before_reset=1`` is ``reset="after"``.

    Raises:
        FileError: the file cannot be read, or is refused as a model is; a ValueError that names it.
        TypeError: an argument of the wrong type.
        ValueError: a damaged model, one without GRU nodes, or one with options that ours does not
            have, such as other activations and ``clip``.
    """
    return read(theirs, nodes=nodes, weights=weights).params


def read(
    theirs: ModelSource,
    *,
    nodes: Sequence[str] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """:func:`load`, and how the model runs what it gives."""
    if isinstance(nodes, str):
        raise TypeError(f"nodes must be a list of names, got {nodes!r}")
    if not isinstance(theirs, (str, os.PathLike)):
        return _read(open_model(theirs), None, nodes, weights or {})
    with file_errors(theirs):
        return _read(open_model(theirs), Path(theirs).parent, nodes, weights or {})


def _read(
    model: onnx.ModelProto,
    directory: Path | None,
    nodes: Sequence[str] | None,
    weights: Mapping[str, Any],
) -> LoadedModel:
    _check_opset(model)
    graph = Graph(model, directory, weights)
    layers = _in_order(graph, _chosen(graph, nodes))
    every = [node for layer in layers for node in layer]
    notes = {entry.key: entry.value for entry in model.metadata_props}
    learned_h0 = notes.get("gru_jax.learned_h0") == "true"
    check_shared(every)
    cells = tuple(
        tuple(cell for node in layer for cell in load_cells(node, learned_h0=learned_h0))
        for layer in layers
    )
    params: GRUParams | Stack
    if list(map(len, cells)) == [1] and notes.get("gru_jax.kind") != "Stack":
        params = cells[0][0]
    else:
        params = validate_stack(Stack(cells, *_joined(graph, layers)))
    return LoadedModel(
        params,
        _is_reverse(layers),
        tuple(node.name for node in every),
        given_lengths=any(_is_given(node.input(4)) for node in every),
        given_states=any(_is_given(node.input(5)) for node in every),
    )


def _check_opset(model: onnx.ModelProto) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] < OLDEST_OPSET:
        raise ValueError(f"its opset is {versions}, expected one, from {OLDEST_OPSET} on")


def _chosen(graph: Graph, names: Sequence[str] | None) -> list[int]:
    """The places of the nodes of these names, or of all."""
    if not graph.nodes:
        if graph.nested:
            raise ValueError(
                f"there is no GRU node in its graph; there is one within {graph.nested}"
            )
        raise ValueError(
            "there is no GRU node in its graph; one that was written as a loop, or step by step as "
            "products and sigmoids, is not recognized"
        )
    if names is None:
        return list(range(len(graph.nodes)))
    known = [node.name for node in graph.nodes]
    for name in names:
        if known.count(name) != 1:
            raise ValueError(f"nodes has {name!r}, but the model's GRU nodes are {known}")
    return sorted(map(known.index, names))


def _in_order(graph: Graph, chosen: Sequence[int]) -> list[list[Node]]:
    """The nodes by layer, the first layer first; of a layer the one that reads forward first."""
    pairs = [key for key in graph.latest_form if len(key) == 2 and set(key) <= set(chosen)]
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
    """Whether what a node reads are the outputs of a layer, as a stack hands them on."""
    outer = [axis for axis in node.outputs.axes if axis in ("time", "batch")]
    return isinstance(source, GruOutputs) and source.axes == (*outer, "features")


def _is_reverse(layers: list[list[Node]]) -> bool:
    alone = {layer[0].outputs.directions[0] for layer in layers if len(layer) == 1}
    if "reverse" not in alone:
        return False
    if len(alone) > 1 or any(len(layer) == 2 for layer in layers):
        names = [node.name for layer in layers for node in layer]
        raise ValueError(f"of its GRU nodes {names} some read backward alone and others do not")
    return True


def _joined(graph: Graph, layers: list[list[Node]]) -> tuple[Merge, bool]:
    """How a stack puts directions together, and whether it is residual."""
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
        raise ValueError("its layers are not all joined alike, which a gru_jax.Stack asks")
    return (merges.pop() if merges else "concat"), (residuals == {True})


def _is_given(value: Value | None) -> bool:
    return value is not None and not isinstance(value, Constant)
