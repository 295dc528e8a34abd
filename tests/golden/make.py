"""Writes the .npz files in this folder: the outputs of other libraries, and their weights.

Needs none of this project. From the repository root, with Python 3.11 or later:

    pip install torch==2.13.0 keras==3.15.1 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
    python tests/golden/make.py

Every file has the version of the library that computed it. All arrays are random, biases and
initial states too, so that a confusion of two gates shows. PyTorch computes in float64. ONNX
Runtime's GRU supports only float32, and Keras computes some steps in float32 even with float64
arrays, so both run in float32.
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

TIME, BATCH, INPUT, HIDDEN = 6, 4, 3, 4
LENGTHS = np.array([6, 2, 4, 1])


def main() -> None:
    for kind, states in ((torch.nn.GRU, 1), (torch.nn.LSTM, 2), (torch.nn.RNN, 1)):
        name = f"torch_{kind.__name__.lower()}"
        save(name, from_torch(kind, states, num_layers=1, bidirectional=False, lengths=None))
        save(
            f"{name}_stack",
            from_torch(kind, states, num_layers=2, bidirectional=True, lengths=LENGTHS),
        )
    for reset_after in (True, False):
        reset = "after" if reset_after else "before"
        save(f"keras_gru_{reset}", from_keras(reset_after))
        save(f"onnxruntime_gru_{reset}", from_onnxruntime(int(reset_after)))


def from_torch(
    kind: type[torch.nn.RNNBase],
    num_states: int,
    *,
    num_layers: int,
    bidirectional: bool,
    lengths: np.ndarray | None,
) -> dict[str, np.ndarray]:
    """Values, and gradients of sum(ys * cotangent_ys) + sum(states_last * cotangent_states_last).

    `states` and `states_last` hold h, and c for the LSTM, along their first axis:
    (num_states, layers * directions, B, H).
    """
    random = np.random.default_rng(1)
    directions = 1 + bidirectional
    module = kind(INPUT, HIDDEN, num_layers, bidirectional=bidirectional, dtype=torch.float64)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.from_numpy(random.uniform(-1, 1, tuple(weight.shape))))
    state_shape = (num_states, num_layers * directions, BATCH, HIDDEN)
    arrays = {
        "xs": random.normal(size=(TIME, BATCH, INPUT)),
        "states": random.uniform(-1, 1, state_shape),
        "cotangent_ys": random.normal(size=(TIME, BATCH, directions * HIDDEN)),
        "cotangent_states_last": random.normal(size=state_shape),
    }
    xs = torch.tensor(arrays["xs"], requires_grad=True)
    states = torch.tensor(arrays["states"], requires_grad=True)
    fed = xs
    if lengths is not None:
        arrays["lengths"] = lengths
        fed = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.from_numpy(lengths), enforce_sorted=False
        )
    ys, last = module(fed, states[0] if num_states == 1 else tuple(states))
    if lengths is not None:
        ys, _ = torch.nn.utils.rnn.pad_packed_sequence(ys, total_length=TIME)
    states_last = last[None] if num_states == 1 else torch.stack(last)

    loss = (ys * torch.from_numpy(arrays["cotangent_ys"])).sum()
    loss += (states_last * torch.from_numpy(arrays["cotangent_states_last"])).sum()
    loss.backward()
    computed = {
        "ys": ys,
        "states_last": states_last,
        "grad.xs": xs.grad,
        "grad.states": states.grad,
        **{f"grad.{name}": weight.grad for name, weight in module.named_parameters()},
        **dict(module.named_parameters()),
    }
    arrays |= {name: value.detach().numpy() for name, value in computed.items()}
    return arrays | {"version": np.array(f"torch {torch.__version__}")}


def from_keras(reset_after: bool) -> dict[str, np.ndarray]:
    """A mask with gaps, read in both directions; the backward outputs are in reading order."""
    random = np.random.default_rng(2)
    arrays = {
        "xs": random.normal(size=(TIME, BATCH, INPUT)).astype(np.float32),
        "h0": random.uniform(-1, 1, (BATCH, HIDDEN)).astype(np.float32),
        "mask": random.uniform(size=(TIME, BATCH)) < 0.6,
    }
    for suffix, go_backwards in (("", False), ("_backward", True)):
        layer = keras.layers.GRU(
            HIDDEN,
            reset_after=reset_after,
            return_sequences=True,
            return_state=True,
            go_backwards=go_backwards,
            zero_output_for_mask=True,
        )
        layer.build((BATCH, TIME, INPUT))
        weights = {
            variable.name: random.uniform(-1, 1, tuple(variable.shape)).astype(np.float32)
            for variable in layer.trainable_variables
        }
        layer.set_weights(list(weights.values()))
        ys, h_last = layer(
            np.swapaxes(arrays["xs"], 0, 1),
            initial_state=arrays["h0"],
            mask=np.swapaxes(arrays["mask"], 0, 1),
        )
        arrays |= {f"{name}{suffix}": value for name, value in weights.items()}
        arrays[f"ys{suffix}"] = np.swapaxes(keras.ops.convert_to_numpy(ys), 0, 1)
        arrays[f"h_last{suffix}"] = keras.ops.convert_to_numpy(h_last)
    return arrays | {"version": np.array(f"keras {keras.__version__}")}


def from_onnxruntime(linear_before_reset: int) -> dict[str, np.ndarray]:
    """Both directions over sequences of different lengths."""
    random = np.random.default_rng(3)
    shapes = {
        "X": (TIME, BATCH, INPUT),
        "W": (2, 3 * HIDDEN, INPUT),
        "R": (2, 3 * HIDDEN, HIDDEN),
        "B": (2, 6 * HIDDEN),
        "initial_h": (2, BATCH, HIDDEN),
    }
    feed = {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    feed["sequence_lens"] = LENGTHS.astype(np.int32)
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B", "sequence_lens", "initial_h"],
        ["Y", "Y_h"],
        hidden_size=HIDDEN,
        direction="bidirectional",
        linear_before_reset=linear_before_reset,
    )
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in feed.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("Y", (TIME, 2, BATCH, HIDDEN)), ("Y_h", (2, BATCH, HIDDEN)))
    ]
    model = helper.make_model(
        helper.make_graph([node], "gru", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 14)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ys, h_last = session.run(["Y", "Y_h"], feed)
    version = np.array(f"onnxruntime {onnxruntime.__version__}")
    return feed | {"Y": ys, "Y_h": h_last, "version": version}


def save(name: str, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(Path(__file__).with_name(f"{name}.npz"), **arrays)


if __name__ == "__main__":
    main()
