"""Constant propagation through a model's graph, which finds its GRU nodes and their inputs."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from gru_jax.interop.onnx.file import TENSOR_DTYPES, RawData, TensorReader
from gru_jax.interop.onnx.rules import PROPAGATION_RULES, Constant, GruOutputs, Opaque, Value

COPYING_OPS = frozenset({"Cast", "Concat", "Reshape"})
SPARE_BYTES = 2**24
MAX_NODES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """A GRU node.

    Attributes:
        name: the node's name, or that of its first output.
        attributes: the attributes by name.
        inputs: the input values; None for an absent input.
        outputs: the first output.
    """

    name: str
    attributes: Mapping[str, Any]
    inputs: tuple[Value | None, ...]
    outputs: GruOutputs

    def input(self, place: int) -> Value | None:
        """The value of an input; None if it is absent."""
        return self.inputs[place] if place < len(self.inputs) else None


class Graph:
    """The values of a model's graph, evaluated node by node in the order of the file.

    Args:
        model: the model.
        raw_data: the data of initializers that the model lacks, by their indices.
        directory: its directory, which must contain its external files; None if the model was not
            read from a file.
        weights: values for inputs of the model, by name.

    Attributes:
        nodes: the GRU nodes.
        latest_form: the last value derived from the outputs of a layer, by
            :attr:`GruOutputs.nodes`.

    Raises:
        ValueError: the model is corrupted, or ``weights`` names an input that it does not have.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        raw_data: RawData,
        directory: Path | None,
        weights: Mapping[str, Any],
    ):
        self._tensors = TensorReader(directory)
        self.nodes: list[Node] = []
        self.latest_form: dict[tuple[int, ...], GruOutputs] = {}
        self._values: dict[str, Value] = {}
        self._presence: dict[str, str] = {}
        # Bounds the memory and time of folding, for any number of nodes that copy or examine
        # constants, by twice the size of the constants: float16 weights may become float32.
        self._budget = SPARE_BYTES
        self._graph = graph = model.graph
        for value in graph.input:
            sizes = tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
            self._values[value.name] = Opaque(f"the input {value.name!r}", True, sizes)
        free = [value.name for value in graph.input]
        for tensor in graph.sparse_initializer:
            self._values[tensor.values.name] = Opaque("a sparse initializer", is_dynamic=False)
        names = [tensor.name for tensor in graph.initializer]
        if len(set(names)) < len(names):
            raise ValueError("two of its initializers have the same name")
        for index, tensor in enumerate(graph.initializer):
            self._values[tensor.name] = self._constant(tensor, raw_data.get(index))
        for name, array in weights.items():
            if name not in free:
                raise ValueError(f"weights has {name!r}, but the model's inputs are {free}")
            self._values[name] = self._new_constant(np.asarray(array))
        for node in graph.node:
            self._read(node)

    def nested(self) -> str | None:
        """The first node with GRU nodes in its subgraph, or None."""
        return next((_label(node) for node in self._graph.node if _holds_gru(node)), None)

    def _read(self, node: onnx.NodeProto) -> None:
        label = _label(node)
        inputs = [self._values.get(name) if name else None for name in node.input]
        for name, value in zip(node.input, inputs, strict=True):
            if name and value is None:
                raise ValueError(f"{label} reads {name!r}, which no node before it computes")
        found: Sequence[Value] | None = None
        if node.domain in ("", "ai.onnx"):
            operator = node.op_type
            if operator == "GRU":
                found = self._gru(node, inputs)
            elif operator == "OptionalHasElement" and len(node.input) == len(node.output) == 1:
                self._presence[node.output[0]] = node.input[0]
            elif operator == "If":
                found = self._default(node)
            elif operator in PROPAGATION_RULES and self._has_room(node, inputs):
                try:
                    found = PROPAGATION_RULES[operator](inputs, self._attributes(node))
                # Axes out of range, sizes that do not fit, missing inputs.
                except (LookupError, OverflowError, TypeError, ValueError) as error:
                    raise ValueError(f"{label} cannot be evaluated: {error}") from error
        is_dynamic = not inputs or any(map(_is_dynamic, inputs))
        for place, name in enumerate(node.output):
            if name and name in self._values:
                raise ValueError(f"{label} computes {name!r}, which is there already")
            value = found[place] if found and place < len(found) else Opaque(label, is_dynamic)
            if isinstance(value, GruOutputs):
                self.latest_form[value.nodes] = value
            self._values[name] = value

    def _gru(self, node: onnx.NodeProto, inputs: Sequence[Value | None]) -> list[Value]:
        attributes = self._attributes(node)
        source = inputs[0] if inputs else None
        axes = ("time", "direction", "batch", "hidden")
        if attributes.get("layout") == 1:
            axes = ("batch", "time", "direction", "hidden")
        direction = str(attributes.get("direction", "forward"))
        directions = 2 if direction == "bidirectional" else 1
        recurrent = inputs[2] if len(inputs) > 2 else None
        hidden = None
        if isinstance(recurrent, Constant) and recurrent.array.ndim == 3:
            hidden = recurrent.array.shape[2]
        sizes: dict[str, int | None] = {"time": None, "batch": None}
        if isinstance(source, GruOutputs):
            sizes |= {axis: source.sizes[axis] for axis in sizes}
        elif isinstance(source, Opaque) and len(source.sizes) == 3:
            outer = [axis for axis in axes if axis in sizes]
            sizes |= {axis: size or None for axis, size in zip(outer, source.sizes, strict=False)}
        sizes |= {"direction": directions, "hidden": hidden}
        sizes["features"] = None if hidden is None else hidden * directions
        if len(self.nodes) == MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES} GRU nodes")
        outputs = GruOutputs((len(self.nodes),), (direction,), source, axes, sizes)
        name = node.name or next(filter(None, node.output), "")
        self.nodes.append(Node(name, attributes, tuple(inputs), outputs))
        return [outputs]

    def _default(self, node: onnx.NodeProto) -> list[Value] | None:
        """Of `If(OptionalHasElement(x), OptionalGetElement(x), default)`: the default."""
        given = self._presence.get(next(iter(node.input), ""))
        branches = {
            each.name: (each.g.node[0].op_type, *each.g.node[0].input)
            for each in node.attribute
            if len(each.g.node) == 1
        }
        if given is None or branches.get("then_branch") != ("OptionalGetElement", given):
            return None
        operator, *names = branches.get("else_branch", ("",))
        default = self._values.get(names[0]) if operator == "Identity" and names else None
        return None if default is None else [default]

    def _has_room(self, node: onnx.NodeProto, inputs: Sequence[Value | None]) -> bool:
        """Whether a node can be evaluated within the budget, which it is charged for."""
        constants = [value for value in inputs if isinstance(value, Constant)]
        if not constants:
            cost = 0
        elif node.op_type in COPYING_OPS:
            dtypes = [TENSOR_DTYPES.get(each.i) for each in node.attribute if each.name == "to"]
            size = max((dtype.itemsize for dtype in dtypes if dtype is not None), default=0)
            cost = sum(max(each.array.nbytes, size * each.array.size) for each in constants)
        else:
            # A constant that is repeated is asked whether it is zero.
            cost = sum(
                each.array.nbytes for each in constants if each.repeated and not each.was_examined
            )
        self._budget -= cost
        return self._budget >= 0

    def _new_constant(self, array: np.ndarray) -> Constant:
        self._budget += 2 * array.nbytes
        return Constant(array)

    def _constant(self, tensor: TensorProto, raw_data: memoryview | None = None) -> Value:
        if tensor.data_type not in TENSOR_DTYPES:
            return Opaque(
                f"the tensor {tensor.name!r}, which does not hold numbers", is_dynamic=False
            )
        return self._new_constant(self._tensors.read(tensor, raw_data))

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """A node's attributes: numbers, strings, lists of them, and tensors as values."""
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            name = attribute.name
            if name in found:
                raise ValueError(f"{_label(node)} has the attribute {name!r} twice")
            if attribute.type == AttributeProto.TENSOR:
                found[name] = self._constant(attribute.t)
                continue
            try:
                value = helper.get_attribute_value(attribute)
                found[name] = value.decode() if isinstance(value, bytes) else value
            except ValueError as error:
                raise ValueError(
                    f"the attribute {name!r} of {_label(node)} cannot be read: {error}"
                ) from error
        return found


def _label(node: onnx.NodeProto) -> str:
    """The name of a node in error messages."""
    name = node.name or next(filter(None, node.output), "")
    return f"{node.op_type} {name!r}"


def _is_dynamic(value: Value | None) -> bool:
    return isinstance(value, GruOutputs) or (isinstance(value, Opaque) and value.is_dynamic)


def _holds_gru(node: onnx.NodeProto) -> bool:
    """Whether a subgraph of the node has a GRU node."""
    graphs = [graph for attribute in node.attribute for graph in _graphs(attribute)]
    return any(
        inner.op_type == "GRU" or _holds_gru(inner) for graph in graphs for inner in graph.node
    )


def _graphs(attribute: AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
