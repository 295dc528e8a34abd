"""Descriptions of Keras' recurrent layers, and the cells that they and their weights make up."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.interop.files import import_optional, is_exactly
from gru_jax.interop.gate_layout import (
    GateLayout,
    as_array,
    load_bias,
    load_matrices,
    make_gru,
    sum_biases,
)
from gru_jax.interop.keras_files import Layer, class_of, numbered
from gru_jax.stack import Merge

LAYOUT = GateLayout("zrn")

MERGES: dict[str, Merge] = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product"}
KINDS = ("GRU", "GRUCell", "RNN", "Bidirectional")
ACTIVATIONS = {"activation": "tanh", "recurrent_activation": "sigmoid"}

LAYER_OPTIONS = {"name", "trainable", "dtype", "activity_regularizer"}
CELL_OPTIONS = LAYER_OPTIONS | {
    *("units", "activation", "recurrent_activation", "use_bias", "reset_after", "seed"),
    *("kernel_initializer", "recurrent_initializer", "bias_initializer"),
    *("kernel_regularizer", "recurrent_regularizer", "bias_regularizer"),
    *("kernel_constraint", "recurrent_constraint", "bias_constraint"),
    *("dropout", "recurrent_dropout", "implementation"),
}
SEQUENCE_OPTIONS = LAYER_OPTIONS | {
    *("return_sequences", "return_state", "go_backwards", "stateful", "unroll"),
    "zero_output_for_mask",
}
KNOWN_OPTIONS = {
    "GRU": CELL_OPTIONS | SEQUENCE_OPTIONS,
    "GRUCell": CELL_OPTIONS,
    "RNN": SEQUENCE_OPTIONS | {"cell"},
    "StackedRNNCells": LAYER_OPTIONS | {"cells"},
    "Bidirectional": LAYER_OPTIONS | {"merge_mode", "layer", "backward_layer"},
}
"""By class, what a layer's description may have; an option of a later version is not ignored."""

ReadWeights: TypeAlias = Callable[[str, int], Sequence[Any]]
"""`(group, count) -> arrays`: the weights of a cell."""

CellLayers: TypeAlias = list[tuple[GRUParams, ...]]
"""Cells by layer and direction."""


@dataclasses.dataclass(frozen=True)
class KerasOptions:
    """Options that the caller gives for weights that do not record them."""

    reset_after: bool | None
    merge: Merge | None


def cells_of_layer(
    layer: Layer, read_weights: ReadWeights, options: KerasOptions, backwards: bool = False
) -> Any:
    """Converts a Keras layer: returns its cells by layer and direction, and its merge mode.

    Args:
        layer: the layer's description, and the group of its weights.
        read_weights: reads the weights of a cell.
        options: what the caller says of weights that do not record it.
        backwards: whether the layer is the backward one of a ``Bidirectional``.

    Raises:
        TypeError: a layer of a class that is not supported.
        ValueError: an option that is not supported, or weights whose shapes do not fit together.
    """
    kind, config, group = layer.kind, layer.config, layer.group
    _check_known(kind, config)
    if kind == "Bidirectional":
        directions = []
        for key, direction in (("layer", "forward"), ("backward_layer", "backward")):
            inner = _child(config[key], f"{group}{direction}_layer/")
            if inner.kind not in ("GRU", "RNN"):
                raise TypeError(f"expected Bidirectional of GRU or RNN, got one of {inner.kind}")
            directions.append(
                cells_of_layer(inner, read_weights, options, direction == "backward")[0]
            )
        if any(len(direction) != 1 for direction in directions):
            raise ValueError(
                "Bidirectional of an RNN of several cells is not supported: it is not a stack of "
                "bidirectional layers"
            )
        return [(directions[0][0][0], directions[1][0][0])], _merge(config, options)
    if kind == "GRUCell":
        return [(load_cell(config, read_weights(group, _count(config)), options),)], None
    if kind not in KINDS:
        raise TypeError(f"expected a layer {', '.join(KINDS)}; got {kind}")
    _check_sequence(config, backwards)
    if kind == "GRU":
        return [(load_cell(config, read_weights(f"{group}cell/", _count(config)), options),)], None
    inner = _child(config["cell"], f"{group}cell/")
    if inner.kind != "StackedRNNCells":
        if inner.kind != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got RNN of {inner.kind}")
        return cells_of_layer(inner, read_weights, options)
    _check_known(inner.kind, inner.config)
    cells = inner.config["cells"]
    groups = numbered([cell["class_name"] for cell in cells])
    layers = []
    for cell, name in zip(cells, groups, strict=True):
        if class_of(cell) != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got {class_of(cell)} among its cells")
        layers += cells_of_layer(_child(cell, f"{group}cell/cells/{name}/"), read_weights, options)[
            0
        ]
    return layers, None


def load_cell(
    config: Mapping[str, Any], weights: Sequence[Any], options: KerasOptions
) -> GRUParams:
    """Converts a cell's weights, by its description, which for weights alone is not complete.

    Raises:
        TypeError, ValueError: an option that is not supported, or weights that do not fit.
    """
    for option, supported in ACTIVATIONS.items():
        if config.get(option, supported) != supported:
            raise ValueError(f"{option}={config[option]!r} is not supported, only {supported!r} is")
    if len(weights) != _count(config):
        raise ValueError(f"expected {_count(config)} weights, got {len(weights)}")
    w_x, w_h = load_matrices(LAYOUT, ("kernel", weights[0]), ("recurrent_kernel", weights[1]))
    reset_after = config.get("reset_after", options.reset_after)
    if options.reset_after is not None and options.reset_after != reset_after:
        raise ValueError(
            f"got reset_after={options.reset_after}, but the layer has reset_after={reset_after}"
        )
    if len(weights) == 2:
        if reset_after is None:
            raise ValueError("pass reset_after=...: weights without a bias do not show it")
        return make_gru(w_x, w_h, reset="after" if reset_after else "before")

    hidden = len(w_h)
    reset: Reset = "after" if np.ndim(weights[2]) == 2 else "before"
    if reset_after is not None and reset_after != (reset == "after"):
        raise ValueError(
            f"bias has shape {np.shape(weights[2])}; with reset_after={reset_after} expected "
            f"{(2, 3 * hidden) if reset_after else (3 * hidden,)}"
        )
    if reset == "before":
        return make_gru(w_x, w_h, load_bias(LAYOUT, "bias", weights[2], hidden), reset=reset)
    biases = as_array("bias", weights[2], (2, 3 * hidden), "(input and recurrent, 3 * hidden)")
    bias, recurrent_bias = LAYOUT.to_canonical(biases)
    return make_gru(w_x, w_h, *sum_biases(bias, recurrent_bias, reset))


def check_functions(layer: Any) -> None:
    """TypeError or ValueError unless a layer, its parts and its activations are exactly Keras' own.

    The description of a layer has only the names of its class and of its activations.
    """
    if not is_exactly(layer, "keras.layers", *KINDS, "StackedRNNCells"):
        found = type(layer)
        raise TypeError(
            f"expected exactly a keras.layers.{found.__name__}, got "
            f"{found.__module__}.{found.__qualname__}, which may compute another function"
        )
    for name in ("forward_layer", "backward_layer", "cell"):
        if hasattr(layer, name):
            check_functions(getattr(layer, name))
    for cell in getattr(layer, "cells", ()):
        check_functions(cell)
    if is_exactly(layer, "keras.layers", "GRUCell"):
        keras = import_optional("keras")
        for name, supported in ACTIVATIONS.items():
            if getattr(layer, name) is not getattr(keras.activations, supported):
                raise ValueError(
                    f"{name} is a function named {supported}, but not keras.activations.{supported}"
                )


def _child(description: Mapping[str, Any], group: str) -> Layer:
    return Layer(class_of(description), description["config"], group)


def _merge(config: Mapping[str, Any], options: KerasOptions) -> Merge:
    if "merge_mode" not in config:
        return options.merge or "concat"
    if config["merge_mode"] not in MERGES:
        raise ValueError(f"merge_mode={config['merge_mode']!r} is not supported")
    merge = MERGES[config["merge_mode"]]
    if options.merge not in (None, merge):
        raise ValueError(f"got merge={options.merge!r}, but the layer has merge_mode={merge!r}")
    return merge


def _count(config: Mapping[str, Any]) -> int:
    return 3 if config.get("use_bias", True) else 2


def _check_known(kind: str, config: Mapping[str, Any]) -> None:
    """ValueError if a layer has an option, other than None or False, that is not known."""
    for option, value in config.items():
        if option not in KNOWN_OPTIONS.get(kind, config) and value not in (None, False):
            raise ValueError(f"{option}={value!r} of {kind} is not known, and so not supported")


def _check_sequence(config: Mapping[str, Any], backwards: bool) -> None:
    """ValueError for an option of a sequence layer that changes what it computes."""
    for option, supported in (("go_backwards", backwards), ("stateful", False), ("unroll", False)):
        if config.get(option, supported) != supported:
            raise ValueError(
                f"{option}={config[option]!r} is not supported; use the arguments reverse and h0 "
                "of gru_jax.unroll"
            )
