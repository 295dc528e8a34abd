"""Builder of an ONNX graph: nodes, constants, inputs, outputs and the file."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gru_jax._files import write_atomically
from gru_jax.interop.files import library_version

OPSET, IR_VERSION = 17, 8
TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
INTEGER = "int32"
NAME_PREFIX = "gru_jax/"
"""Prefix of the names of all values other than inputs and outputs."""


class Writer:
    """Builds a graph with one floating point dtype.

    Args:
        dtype: "float16", "float32" or "float64".
    """

    def __init__(self, dtype: str):
        self.dtype = dtype
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str], *, dtype: str | None = None) -> str:
        """Adds an input; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, self._type(dtype), shape))
        return name

    def optional_input(
        self, name: str, shape: Sequence[int | str], default: np.ndarray, dtype: str | None = None
    ) -> str:
        """Adds an input that may be absent; returns the name of its value, or else the default.

        An input with an initializer of its name would do as well, but onnxruntime warns of it
        whenever it loads the model.
        """
        kind = self._type(dtype)
        tensor = helper.make_tensor_type_proto(kind, shape)
        self._inputs.append(helper.make_value_info(name, helper.make_optional_type_proto(tensor)))
        constant = self.constant(default, dtype)
        branches = {
            "then_branch": helper.make_node("OptionalGetElement", [name], [f"{constant}/given"]),
            "else_branch": helper.make_node("Identity", [constant], [f"{constant}/default"]),
        }
        graphs = {
            branch: helper.make_graph(
                [node], branch, [], [helper.make_tensor_value_info(node.output[0], kind, None)]
            )
            for branch, node in branches.items()
        }
        return self.node("If", self.node("OptionalHasElement", name), **graphs)

    def _type(self, dtype: str | None) -> int:
        return TensorProto.INT32 if dtype == INTEGER else TYPES[self.dtype]

    def output(self, name: str, value: str, shape: Sequence[int | str]) -> None:
        """Makes a value an output."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TYPES[self.dtype], shape))

    def constant(self, value: Any, dtype: str | None = None) -> str:
        """Adds a constant array, in the graph's dtype by default; returns its name."""
        name = f"{NAME_PREFIX}constant_{len(self._constants)}"
        array = np.ascontiguousarray(value, dtype or self.dtype)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Adds a constant list of integers, such as axes or a shape; returns its name."""
        return self.constant(values, "int64")

    def cast(self, value: str, dtype: str) -> str:
        """Adds a cast to another dtype; returns the output's name."""
        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        return self.nodes(operator, *inputs, outputs=1, **attributes)[0]

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds a node; returns the names of its outputs."""
        name = f"{NAME_PREFIX}{operator}_{len(self._nodes)}"
        output_names = [name if place == 0 else f"{name}_{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, output_names, name, **attributes))
        return output_names

    def finish(
        self, path: str | os.PathLike[str] | None, metadata: Mapping[str, str]
    ) -> onnx.ModelProto:
        """Checks the model, writes it to a file if there is a path, and returns it.

        Args:
            path: the file to write; None writes no file.
            metadata: entries of the model's metadata; the prefix "gru_jax." is added to the keys.

        Raises:
            ValueError: the model has two gigabytes or more, the limit of a model file.
            OSError: the file cannot be written.
        """
        graph = helper.make_graph(
            self._nodes, "gru_jax", self._inputs, self._outputs, self._constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="gru_jax",
            producer_version=library_version(),
        )
        helper.set_model_props(model, {f"gru_jax.{key}": value for key, value in metadata.items()})
        if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
            raise ValueError("the parameters exceed 2 GB, the limit of an ONNX file")
        onnx.checker.check_model(model, full_check=True)
        if path is not None:
            write_atomically(path, model.SerializeToString())
        return model
