"""Every option of the recurrent layers of other frameworks, and what a converter makes of it.

`TABLE[layer][fate][option]` is a value that is not the option's default. The fates are

- "loaded": it becomes part of the parameters, their shapes or their class;
- "argument": it is an argument of gru_jax's functions, not a parameter;
- "no effect": it does not change what a trained model computes;
- "rejected": loading raises an error that names it.
"""

import inspect
from typing import Any

FATES = ("loaded", "argument", "no effect", "rejected")

SIZES = {"input_size": 3, "hidden_size": 4}
KERAS_TRAINING = {
    "kernel_initializer": "ones",
    "recurrent_initializer": "glorot_uniform",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "recurrent_regularizer": "l2",
    "bias_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "recurrent_constraint": "non_neg",
    "bias_constraint": "non_neg",
    "dropout": 0.5,
    "recurrent_dropout": 0.5,
    "seed": 3,
}
KERAS_CELL = {"units": 4, "use_bias": False, "reset_after": False}
KERAS_ACTIVATIONS = {"activation": "relu", "recurrent_activation": "hard_sigmoid"}
KERAS_OUTPUTS = {"return_sequences": False, "return_state": False}
KERAS_REJECTED = {"go_backwards": True, "stateful": True, "unroll": True}


def _ones_init(*arguments: Any) -> Any:
    """Of Flax, called with `(key, shape, dtype)`, and of Haiku, with `(shape, dtype)`."""
    import jax.numpy as jnp

    return jnp.ones(*arguments[-2:])


def _relu(x: Any) -> Any:
    import jax

    return jax.nn.relu(x)


def _promote(arrays: Any, dtype: Any = None, inexact: bool = True) -> Any:
    """Would multiply all that a layer reads by 2."""
    return tuple(2 * array for array in arrays)


FLAX_INIT = dict.fromkeys(("kernel_init", "recurrent_kernel_init", "bias_init"), _ones_init)
FLAX_REJECTED = {"gate_fn": _relu, "activation_fn": _relu, "carry_init": _ones_init}

TABLE: dict[str, dict[str, dict[str, Any]]] = {
    "torch.nn.GRU": {
        "loaded": {**SIZES, "num_layers": 2, "bias": False, "bidirectional": True}
        | {"dtype": "float64"},
        "argument": {"batch_first": True},
        "no effect": {"dropout": 0.5, "device": "cpu"},
        # PyTorch itself has it for LSTMs only.
        "rejected": {"proj_size": 2},
    },
    "torch.nn.GRUCell": {
        "loaded": {**SIZES, "bias": False, "dtype": "float64"},
        "no effect": {"device": "cpu"},
    },
    "keras.layers.GRU": {
        "loaded": KERAS_CELL,
        "argument": KERAS_OUTPUTS | {"dtype": "mixed_bfloat16"},
        "no effect": KERAS_TRAINING
        | {"activity_regularizer": "l2", "use_cudnn": False, "name": "g", "trainable": False}
        | {"zero_output_for_mask": True},
        "rejected": KERAS_ACTIVATIONS | KERAS_REJECTED,
    },
    "keras.layers.GRUCell": {
        "loaded": KERAS_CELL,
        "argument": {"dtype": "mixed_bfloat16"},
        "no effect": KERAS_TRAINING | {"name": "g", "trainable": False},
        "rejected": KERAS_ACTIVATIONS,
    },
    "keras.layers.RNN": {
        "loaded": {"cell": 4},
        "argument": KERAS_OUTPUTS | {"dtype": "mixed_bfloat16"},
        "no effect": {"zero_output_for_mask": True, "name": "g", "trainable": False},
        "rejected": KERAS_REJECTED,
    },
    "keras.layers.Bidirectional": {
        "loaded": {"layer": 4, "merge_mode": "sum", "backward_layer": 4},
        "argument": {"dtype": "mixed_bfloat16"},
        "no effect": {"weights": None, "name": "g", "trainable": False},
    },
    "flax.linen.GRUCell": {
        "loaded": {"features": 4, "param_dtype": "float16"},
        "argument": {"dtype": "bfloat16"},
        "no effect": {**FLAX_INIT, "parent": None, "name": "g"},
        "rejected": FLAX_REJECTED,
    },
    "flax.nnx.GRUCell": {
        "loaded": {"in_features": 3, "hidden_features": 4, "param_dtype": "float16"},
        "argument": {"dtype": "bfloat16"},
        "no effect": {**FLAX_INIT, "keep_rngs": True, "rngs": 1}
        | {f"{each}_metadata": {"tag": "t"} for each in ("kernel", "recurrent_kernel", "bias")},
        "rejected": {**FLAX_REJECTED, "promote_dtype": _promote},
    },
    "haiku.GRU": {
        "loaded": {"hidden_size": 4},
        "no effect": {"w_i_init": _ones_init, "w_h_init": _ones_init, "b_init": _ones_init}
        | {"name": "g"},
    },
    "equinox.nn.GRUCell": {
        "loaded": {**SIZES, "use_bias": False, "dtype": "float16"},
        "no effect": {"key": 1},
    },
    "onnx.GRU": {
        "loaded": {"hidden_size": 4, "linear_before_reset": 1, "direction": "bidirectional"},
        "argument": {"layout": 1},
        "rejected": {
            "activations": ["Relu", "Tanh"],
            "activation_alpha": [0.5],
            "activation_beta": [0.5],
            "clip": 5.0,
        },
    },
}

KERAS_LAYER = {"name", "trainable", "dtype", "zero_output_for_mask"}
"""Options that Keras' layers take by `**kwargs`."""


def options_of(layer: str) -> dict[str, tuple[str, Any]]:
    """An option's fate and a value that is not its default, by name."""
    return {
        option: (fate, value)
        for fate, options in TABLE[layer].items()
        for option, value in options.items()
    }


def arguments_of(kind: type) -> set[str]:
    """The arguments of a class' constructor."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    return {each.name for each in parameters if each.kind not in kinds}
