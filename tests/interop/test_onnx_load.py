"""ONNX models of other exporters: gru_jax reads them and computes what they compute."""

import importlib
import io
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402
from onnx.backend.test.case import node as node_cases  # noqa: E402

from experiments.interop.bad_files.adversarial_onnx import by_hand, gru, node  # noqa: E402
from gru_jax.interop import onnx as converter  # noqa: E402
from tests.assert_trees import assert_equal  # noqa: E402
from tests.interop.onnx_values import assert_close, joined  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_node_tests_of_onnx_hold():
    # What load_model_tests(kind="node") has of GRUs; for it, every operator's cases are made first.
    importlib.import_module("onnx.backend.test.case.node.gru")
    cases = [case for case in node_cases._NodeTestCases if "gru" in case.name]
    assert len(cases) >= 6
    for case in cases:
        names = [value.name for value in case.model.graph.input]
        outputs = [value.name for value in case.model.graph.output]
        for inputs, expected in case.data_sets:
            values = dict(zip(names, inputs, strict=True))
            xs = values.pop("X")
            layers = converter.read(case.model, weights=values)
            if any(a.name == "layout" and a.i for a in case.model.graph.node[0].attribute):
                xs = xs.swapaxes(0, 1)
                expected = [array.swapaxes(0, -2) for array in expected]
            if isinstance(layers.params, gru_jax.Stack):
                states, ys = gru_jax.unroll_stack(layers.params, xs)
                ys = ys.reshape(*ys.shape[:2], 2, -1).swapaxes(1, 2)
                found = {"Y": ys, "Y_h": joined(states)}
            else:
                h_last, ys = gru_jax.unroll(layers.params, xs, reverse=layers.reverse)
                found = {"Y": ys[:, None], "Y_h": h_last[None]}
            for name, array in zip(outputs, expected, strict=True):
                assert_close(found[name], array)


@pytest.mark.parametrize("options", [{}, {"do_constant_folding": False}])
@pytest.mark.parametrize("with_h0", [True, False])
@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "bias", "batch_first"),
    [
        (1, False, True, False),
        (1, True, True, True),
        (2, False, False, True),
        (3, True, True, False),
    ],
)
def test_what_pytorch_exports_is_read(
    num_layers, bidirectional, bias, batch_first, with_h0, options
):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.GRU(3, 4, num_layers, bias, batch_first, bidirectional=bidirectional)
    xs = torch.randn(5, 5, 3)
    h0 = torch.randn(num_layers * (1 + bidirectional), 5, 4)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (xs, h0) if with_h0 else (xs,), file, dynamo=False, input_names=["xs"],
            dynamic_axes={"xs": {0: "first", 1: "second"}}, **options,
        )  # fmt: skip
    layers = converter.read(file.getvalue())
    assert layers.given_states == with_h0
    params = layers.params
    if isinstance(params, gru_jax.GRUParams):
        params = gru_jax.Stack(((params,),))
    expected = module(xs, h0 if with_h0 else None)
    inputs = jnp.asarray(xs.numpy())
    first = None
    if with_h0:
        first = iter(jnp.asarray(h0.numpy()))
        first = tuple(tuple(next(first) for _ in layer) for layer in params.layers)
    if batch_first:
        inputs = inputs.swapaxes(0, 1)
    states, ys = gru_jax.unroll_stack(params, inputs, first)
    assert_close(ys.swapaxes(0, 1) if batch_first else ys, expected[0].detach().numpy())
    assert_close(joined(states), expected[1].detach().numpy())


def test_what_pytorch_exports_of_packed_sequences_is_read():
    torch = pytest.importorskip("torch")

    class Packed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = torch.nn.GRU(3, 4, bidirectional=True)

        def forward(self, xs, lengths):
            packed = torch.nn.utils.rnn.pack_padded_sequence(xs, lengths)
            ys, last = self.gru(packed)
            return torch.nn.utils.rnn.pad_packed_sequence(ys)[0], last

    torch.manual_seed(0)
    module, file = Packed(), io.BytesIO()
    xs, lengths = torch.randn(5, 3, 3), torch.tensor([5, 3, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (xs, lengths), file, dynamo=False, input_names=["xs", "n"])
    layers = converter.read(file.getvalue())
    assert layers.given_lengths
    states, ys = gru_jax.unroll_stack(
        layers.params,
        jnp.asarray(xs.numpy()),
        lengths=jnp.asarray(lengths.numpy(), jnp.int32),
    )
    for found, expected in zip((ys, joined(states)), module(xs, lengths), strict=True):
        assert_close(found, expected.detach().numpy())


@pytest.mark.parametrize("kind", ["one", "last", "both", "backwards", "stack"])
def test_what_keras_exports_is_read(kind):
    found, xs, ys = exported_by_keras(kind)
    params = converter.load(found)
    stack = params if isinstance(params, gru_jax.Stack) else gru_jax.Stack(((params,),))
    # A layer that goes backwards is a node that reads forward, after one that turns time round.
    outputs = gru_jax.unroll_stack(stack, xs[::-1] if kind == "backwards" else xs)[1]
    assert_close(outputs[-1] if kind == "last" else outputs.swapaxes(0, 1), ys)


@pytest.mark.parametrize("kind", ["before", "keras3"])
def test_a_gru_that_keras_exports_as_a_loop_is_rejected(kind):
    with pytest.raises(
        ValueError, match=r"no GRU node in its graph; one that was written as a loop"
    ):
        converter.load(exported_by_keras(kind)[0])


def exported_by_keras(kind):
    """The bytes of a model, inputs (T, B, I), and what Keras' layers make of them."""
    with np.load(GOLDEN / "keras_onnx.npz") as arrays:
        assert (kind in ("before", "keras3")) == ("GRU" not in arrays[f"{kind}.operators"])
        xs = jnp.asarray(arrays[f"{kind}.xs"]).swapaxes(0, 1)
        return arrays[f"{kind}.model"].tobytes(), xs, arrays[f"{kind}.ys"]


def test_a_node_by_hand_is_read():
    params = gru()
    assert_equal(converter.load(by_hand(params)), params)
    explicit = by_hand(params, activations=["Sigmoid", "Tanh"], direction="forward")
    assert_equal(converter.load(explicit), params)
    assert converter.read(by_hand(params, direction="reverse")).reverse


def test_weights_may_lie_in_typed_fields_and_in_other_files(tmp_path):
    params = gru()
    model = by_hand(params)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.ClearField("raw_data")
        tensor.float_data.extend(array.reshape(-1).tolist())
    assert_equal(converter.load(model), params)
    path = tmp_path / "gru.onnx"
    model = by_hand(params)
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="weights.bin")
    assert len(path.read_bytes()) < 2000
    assert_equal(converter.load(path), params)
    with pytest.raises(ValueError, match="pass the path"):
        converter.load(path.read_bytes())


def test_what_is_between_layers_is_followed():
    """As a converter writes that has a node for each direction, batch-major axes and opset 7."""
    forward, backward, upper = gru(seed=1), gru(seed=2), gru(8, seed=3)
    arrays = {}
    for name, cell in {"f": forward, "b": backward, "u": upper}.items():
        for tensor in by_hand(cell).graph.initializer:
            arrays[name + tensor.name] = numpy_helper.to_array(tensor)
    options = {"hidden_size": 4, "linear_before_reset": 1}
    nodes = [
        node("Transpose", ["X"], "x", perm=[1, 0, 2]),
        node("GRU", ["x", "fW", "fR", "fB"], "f", **options),
        node("GRU", ["x", "bW", "bR", "bB"], "b", direction="reverse", **options),
        node("Squeeze", ["f"], "f1", axes=[1]),
        node("Squeeze", ["b"], "b1", axes=[1]),
        node("Concat", ["f1", "b1"], "both", axis=-1),
        node("Transpose", ["both"], "batched", perm=[1, 0, 2]),
        node("Dropout", ["batched"], "dropped"),
        node("Transpose", ["dropped"], "timed", perm=[1, 0, 2]),
        node("GRU", ["timed", "uW", "uR", "uB"], "Y", **options),
    ]
    read = converter.load(by_hand(forward, nodes, further=arrays, opset=7))
    assert_equal(read, gru_jax.Stack(((forward, backward), (upper,))))


def test_nodes_are_chosen_by_name():
    params, other = gru(seed=1), gru(seed=2)
    further = {
        "o" + tensor.name: numpy_helper.to_array(tensor)
        for tensor in by_hand(other).graph.initializer
    }
    options = {"hidden_size": 4, "linear_before_reset": 1}
    nodes = [
        node("GRU", ["X", *"WRB"], "Y", **options),
        node("GRU", ["X", "oW", "oR", "oB"], "Z", **options),
    ]
    model = by_hand(params, nodes, further=further)
    with pytest.raises(ValueError, match=r"\['Y', 'Z'\] are not layers of one stack"):
        converter.load(model)
    assert_equal(converter.load(model, nodes=["Z"]), other)
    with pytest.raises(ValueError, match="'y'"):
        converter.load(model, nodes=["y"])
    with pytest.raises(ValueError, match="'w'"):
        converter.load(model, weights={"w": np.zeros(3)})
