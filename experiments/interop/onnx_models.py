"""ONNX models with random weights, built from the operator's documentation."""

# pyright: reportMissingImports=false

from typing import Any

import numpy as np

from experiments.interop.models import Model, Result, uniform

NAMES = ("xs", "h0"), ("ys", "h_last")


def init(model: Model, rng: np.random.Generator) -> Any:
    """A model with inputs xs and h0, outputs ys and h_last, as `gru_jax.interop.onnx` names them.

    Inputs and outputs are time-major; states are (layers * directions, batch, H).
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights = [], []

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    directions, hidden, layers = model.directions, model.hidden, max(1, model.layers)
    states = [f"h0_{layer}" for layer in range(layers)]
    sizes = constant("sizes", np.full(layers, directions, np.int64))
    nodes.append(helper.make_node("Split", ["h0", sizes], states, axis=0))
    xs = "xs"
    for layer in range(layers):
        shapes: dict[str, tuple[int, ...]] = {
            "W": (3 * hidden, model.input_size_of(layer)),
            "R": (3 * hidden, hidden),
        }
        if model.bias:
            shapes["B"] = (6 * hidden,)
        arrays = [
            constant(f"{name}_{layer}", uniform(rng, (directions, *shape), model.dtype))
            for name, shape in shapes.items()
        ]
        nodes.append(
            helper.make_node(
                "GRU",
                ["xs" if layer == 0 else xs, *arrays, *[""] * (4 - len(arrays)), states[layer]],
                [f"y_{layer}", f"last_{layer}"],
                hidden_size=hidden,
                direction="bidirectional" if directions == 2 else "forward",
                linear_before_reset=int(model.reset == "after"),
            )
        )
        xs = f"ys_{layer}"
        if directions == 1:
            axes = constant(f"axes_{layer}", np.array([1], np.int64))
            nodes.append(helper.make_node("Squeeze", [f"y_{layer}", axes], [xs]))
        elif model.merge == "sum":
            axes = constant(f"axes_{layer}", np.array([1], np.int64))
            nodes.append(helper.make_node("ReduceSum", [f"y_{layer}", axes], [xs], keepdims=0))
        else:
            transposed = f"transposed_{layer}"
            y = f"y_{layer}"
            nodes.append(helper.make_node("Transpose", [y], [transposed], perm=[0, 2, 1, 3]))
            shape = constant(f"shape_{layer}", np.array([0, 0, -1], np.int64))
            nodes.append(helper.make_node("Reshape", [transposed, shape], [xs]))
    last = [f"last_{layer}" for layer in range(layers)]
    nodes.append(helper.make_node("Concat", last, ["h_last"], axis=0))
    nodes.append(helper.make_node("Identity", [xs], ["ys"]))
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in names]
        for names in NAMES
    )
    graph = helper.make_graph(nodes, "random", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: Model, onnx_model: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
    """Outputs and last states of onnxruntime for inputs (time, batch, input)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Otherwise onnxruntime warns of shapes that it cannot infer.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        onnx_model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # `dump` of a single cell gives states (batch, H).
    h0 = states[0] if _num_axes(onnx_model, "h0") == 2 else np.stack(states)
    ys, last = map(np.asarray, session.run(["ys", "h_last"], {"xs": xs, "h0": h0}))
    return ys, list(last.reshape(-1, *last.shape[-2:]))


def _num_axes(onnx_model: Any, name: str) -> int:
    """The rank of an input, which may be optional."""
    (of_input,) = (value.type for value in onnx_model.graph.input if value.name == name)
    if of_input.HasField("optional_type"):
        of_input = of_input.optional_type.elem_type
    return len(of_input.tensor_type.shape.dim)
