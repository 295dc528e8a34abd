"""Writes keras_onnx.npz in this folder: models that tf2onnx converts from Keras' layers.

Needs none of this project. From the repository root, with Python 3.11:

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0 tf2onnx==1.17.0 keras==3.15.1
    TF_USE_LEGACY_KERAS=1 python tests/golden/make_keras_onnx.py

tf2onnx converts Keras 2's layers (tf_keras) with reset_after=True to GRU nodes, other layers and
those of Keras 3 to a Loop. For each kind of layer the file has the model's bytes, the names of its
operators, an input (B, T, I), and the layers' outputs.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
import tf_keras

BATCH, TIME, INPUT = 2, 6, 5


def main() -> None:
    layers = tf_keras.layers
    kinds = {
        "one": [layers.GRU(4, return_sequences=True)],
        "last": [layers.GRU(4)],
        "both": [layers.Bidirectional(layers.GRU(4, return_sequences=True))],
        "backwards": [layers.GRU(4, return_sequences=True, go_backwards=True)],
        "stack": [layers.GRU(4, return_sequences=True), layers.GRU(3, return_sequences=True)],
        "before": [layers.GRU(4, return_sequences=True, reset_after=False)],
        "keras3": [keras.layers.GRU(4, return_sequences=True)],
    }
    arrays = {
        "version": np.array(f"tf2onnx {tf2onnx.__version__}, tf_keras {tf_keras.__version__}")
    }
    for seed, (kind, chain) in enumerate(kinds.items()):
        for name, value in exported(chain, seed).items():
            arrays[f"{kind}.{name}"] = value
    np.savez_compressed(Path(__file__).with_name("keras_onnx.npz"), **arrays)


def exported(chain: list, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    library = keras if isinstance(chain[0], keras.layers.Layer) else tf_keras
    model = library.Sequential([library.Input((None, INPUT)), *chain])
    # Keras begins with biases of zero, which would hide how they are laid out.
    model.set_weights([random.normal(0, 0.5, w.shape).astype("f") for w in model.get_weights()])
    signature = [tf.TensorSpec((None, None, INPUT), tf.float32)]
    proto, _ = tf2onnx.convert.from_function(
        tf.function(lambda xs: model(xs)), input_signature=signature, opset=15
    )
    xs = random.normal(size=(BATCH, TIME, INPUT)).astype("f")
    return {
        "model": np.frombuffer(proto.SerializeToString(), np.uint8),
        "operators": np.array([node.op_type for node in proto.graph.node]),
        "xs": xs,
        "ys": np.asarray(model(xs)),
    }


if __name__ == "__main__":
    main()
