"""A graph that is being written: nodes, constants, inputs and outputs, and the file at the end."""

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gru_jax._files import write_atomically

OPSET, IR_VERSION = 17, 8
TYPES = {
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
INTEGER = "int32"
NAME_PREFIX = "gru_jax/"
"""What the names of all that is not an input or an output begin with."""


class Writer:
    """A graph in one floating point type.

    Args:
        dtype: "float16", "float32" or "float64".
    """

    def __init__(self, dtype: str):
        self.dtype = dtype
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(
        self,
        name: str,
        shape: Sequence[int | str],
        *,
        dtype: str | None = None,
        default: np.ndarray | None = None,
    ) -> str:
        """Adds an input, which may be left out where it has a default; returns its name."""
        kind = TensorProto.INT32 if dtype == INTEGER else TYPES[self.dtype]
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        if default is not None:
            self._constants.append(numpy_helper.from_array(default, name))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str]) -> None:
        """Makes a value an output."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TYPES[self.dtype], shape))

    def constant(self, value: Any, dtype: str | None = None) -> str:
        """Adds an array, in the graph's type unless another is asked for; returns its name."""
        name = f"{NAME_PREFIX}constant_{len(self._constants)}"
        array = np.ascontiguousarray(value, dtype or self.dtype)
        self._constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        """Adds a list of integers, as axes and shapes are; returns its name."""
        return self.constant(values, "int64")

    def cast(self, value: str, dtype: str) -> str:
        """Adds a node that turns numbers into another type; returns its name."""
        return self.node("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one output; returns the output's name."""
        return self.nodes(operator, *inputs, outputs=1, **attributes)[0]

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Adds a node; returns the names of its outputs."""
        name = f"{NAME_PREFIX}{operator}_{len(self._nodes)}"
        made = [name if place == 0 else f"{name}_{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, made, name, **attributes))
        return made

    def finish(
        self, path: str | os.PathLike[str] | None, notes: Mapping[str, str]
    ) -> onnx.ModelProto:
        """The model, validate_stack, and written to a file where there is a path.

        Args:
            path: of the file; None writes none.
            notes: kept as metadata, under names that begin with "gru_jax.".

        Raises:
            ValueError: it has two gigabytes or more, which a model file cannot have.
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
            producer_version=_version(),
        )
        helper.set_model_props(model, {f"gru_jax.{key}": note for key, note in notes.items()})
        if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
            raise ValueError("an ONNX file holds less than 2 GB, which these parameters exceed")
        onnx.checker.check_model(model, full_check=True)
        if path is not None:
            write_atomically(path, model.SerializeToString())
        return model


def _version() -> str:
    try:
        return metadata.version("gru-jax")
    except metadata.PackageNotFoundError:
        return "unknown"
