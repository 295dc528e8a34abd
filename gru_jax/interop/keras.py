"""Keras 3: GRU layers and cells, their weight lists, and .keras and .weights.h5 files."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.interop.files import file_errors, import_optional, is_exactly, is_path
from gru_jax.interop.gate_layout import (
    GateLayout,
    as_array,
    check_gru,
    check_stack,
    has_bias,
    load_bias,
    load_matrices,
    make_gru,
    split_biases,
    sum_biases,
    validate_stack,
)
from gru_jax.interop.keras_files import Layer, class_of, numbered, read_file
from gru_jax.stack import Merge, Stack

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


def load(
    source: Any,
    *,
    layer: str | None = None,
    reset_after: bool | None = None,
    merge: Merge | None = None,
) -> GRUParams | Stack:
    """Loads parameters from Keras.

    With ``reset_after=True`` the input bias and the recurrent bias of the reset and update gates
    are summed; Keras only adds them. Dropout and ``return_sequences`` are not parameters: pass
    dropout to :func:`gru_jax.unroll_stack`, which returns both all outputs and the last states.

    Weights without their layer, from a list or a .weights.h5 file, do not record the activations;
    Keras' defaults are assumed.

    Args:
        source: a built layer ``GRU``, ``GRUCell``, ``RNN`` of ``GRUCell``s or ``Bidirectional`` of
            these; the result of ``get_weights`` of a ``GRU`` or a ``GRUCell``; for a stack, a list
            of layers, or of the weight lists of ``GRU`` and ``Bidirectional``; or the path of a
            .keras or .weights.h5 file.
        layer: the layer of a file: its name in a .keras file ("outer/inner" within a nested
            model), its group in a .weights.h5 file, such as "gru_1". Optional if the file has only
            one recurrent layer.
        reset_after: the layer's ``reset_after``; needed only for weights without a bias, whose
            shape would tell.
        merge: how the directions of weights are combined; ``"concat"`` by default.

    Returns:
        GRUParams for one cell; a Stack for ``Bidirectional``, several cells, or a list of layers.

    Raises:
        FileError: the file cannot be read or holds no such layer; a ValueError that names the file.
        TypeError: a layer of another class; a subclass counts as another.
        ValueError: an option that is not supported (``activation``, ``go_backwards``, ``stateful``,
            ``unroll``, masks) or not known, or weights whose shapes do not fit together.
        ImportError: h5py is not installed.
    """
    options = KerasOptions(reset_after, merge)
    if is_path(source):
        with file_errors(source):
            return _load_file(source, layer, options)
    if layer is not None:
        raise ValueError(f"layer is for files, got layer={layer!r} with {type(source).__name__}")
    if not isinstance(source, (list, tuple)):
        return _one(*_load_layer(source, options))
    if source and all(hasattr(each, "ndim") for each in source):
        if len(source) > 3:
            raise ValueError(
                f"{len(source)} arrays may be those of two directions or of two cells; pass the "
                "layer, or for Bidirectional a list that holds its list of weights"
            )
        return _one(*_load_weights(source, options))
    for each in source[:-1]:
        if getattr(each, "return_sequences", True) is False:
            raise ValueError(
                f"the layer {each.name} has return_sequences=False: the next layer reads its last "
                "state only"
            )
    parts = [
        (_load_weights if isinstance(each, (list, tuple)) else _load_layer)(each, options)
        for each in source
    ]
    return _stack([part for layers, _ in parts for part in layers], [part[1] for part in parts])


def dump(params: GRUParams | Stack) -> list[Any]:
    """Converts parameters to Keras' weight lists, as NumPy arrays.

    Args:
        params: a GRU or a stack of GRUs.

    Returns:
        For GRUParams the argument of ``set_weights`` of ``GRU``, ``GRUCell`` or ``RNN(GRUCell)``;
        for a Stack a list with that argument for each layer, of two directions for
        ``Bidirectional``. Create the layers with ``reset_after`` as in the parameters,
        ``use_bias`` if they have a bias, and the ``merge_mode`` of the stack.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: a learned initial state, ``residual=True``, or the two directions of a layer
            have different values of ``reset``.
    """
    if not isinstance(params, Stack):
        return _dump_cell(params, None)
    check_stack(params, "keras", tuple(MERGES.values()))
    return [_dump_layer(layer) for layer in params.layers]


def _dump_layer(layer: tuple[Any, ...]) -> list[np.ndarray]:
    for cell in layer:
        check_gru(cell, "keras", ["after", "before"])
    if len({cell.reset for cell in layer}) > 1:
        raise ValueError(
            "keras supports one equation for both directions of a layer; these have different reset"
        )
    biased = any(map(has_bias, layer))
    return [array for cell in layer for array in _dump_cell(cell, biased)]


def _dump_cell(params: GRUParams, biased: bool | None) -> list[np.ndarray]:
    check_gru(params, "keras", ["after", "before"])
    weights = [LAYOUT.from_canonical(np.asarray(each)) for each in (params.w_x, params.w_h)]
    if biased or (biased is None and has_bias(params)):
        biases = list(map(LAYOUT.from_canonical, split_biases(params)))
        weights.append(np.stack(biases) if params.reset == "after" else biases[0])
    return weights


@dataclasses.dataclass(frozen=True)
class KerasOptions:
    """Options that the caller gives for weights that do not record them."""

    reset_after: bool | None
    merge: Merge | None


CellLayers: TypeAlias = list[tuple[GRUParams, ...]]


def _one(layers: CellLayers, merge: Merge | None) -> GRUParams | Stack:
    """Converts one Keras layer: to a cell's parameters, or to a stack."""
    if len(layers) == 1 and len(layers[0]) == 1:
        return layers[0][0]
    return _stack(layers, [merge])


def _stack(layers: CellLayers, merges: Sequence[Merge | None]) -> Stack:
    distinct: set[Merge] = {merge for merge in merges if merge}
    if len(distinct) > 1:
        raise ValueError(f"all layers must have one merge_mode, got {', '.join(sorted(distinct))}")
    return validate_stack(Stack(tuple(layers), merge=distinct.pop() if distinct else "concat"))


def _load_file(path: Any, name: str | None, options: KerasOptions) -> GRUParams | Stack:
    layers, arrays = read_file(path)
    candidates = [each for each, layer in layers.items() if layer.kind in KINDS]
    if name is None:
        if len(candidates) != 1:
            there = ", ".join(map(repr, candidates)) or "none"
            raise ValueError(f"pass layer=... to choose a recurrent layer; the file has {there}")
        name = candidates[0]
    if name not in layers:
        raise ValueError(
            f"the file has no layer {name!r}; its recurrent layers are {', '.join(candidates)}"
        )

    def read_weights(group: str, count: int) -> list[np.ndarray]:
        names = [f"{group}vars/{index}" for index in range(count)]
        for each in names:
            if each not in arrays:
                raise ValueError(f"the weight {each} of the layer {name} is missing")
        return [arrays[each] for each in names]

    try:
        return _one(*_cells(layers[name], read_weights, options))
    except (KeyError, AttributeError) as error:
        raise ValueError(f"the description of the layer {name} is incomplete: {error!r}") from error


def _load_layer(layer: Any, options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    if not hasattr(layer, "get_config") or not hasattr(layer, "get_weights"):
        raise TypeError(f"expected a Keras layer, weights or a path, got {type(layer).__name__}")
    if not getattr(layer, "built", True):
        raise ValueError(f"the layer {layer.name} is not built, so it has no weights yet")
    weights = iter(layer.get_weights())
    description = Layer(type(layer).__name__, layer.get_config())
    cells = _cells(description, lambda _, count: list(itertools.islice(weights, count)), options)
    _check_functions(layer)
    return cells


def _check_functions(layer: Any) -> None:
    """Raises unless a layer, its inner layers and its activations are exactly Keras' own.

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
            _check_functions(getattr(layer, name))
    for cell in getattr(layer, "cells", ()):
        _check_functions(cell)
    if is_exactly(layer, "keras.layers", "GRUCell"):
        keras = import_optional("keras")
        for name, supported in ACTIVATIONS.items():
            if getattr(layer, name) is not getattr(keras.activations, supported):
                raise ValueError(
                    f"{name} is a function named {supported}, but not keras.activations.{supported}"
                )


def _load_weights(weights: Sequence[Any], options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    """Loads the result of `get_weights`: one cell, or a forward cell followed by a backward one."""
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(f"expected 2 or 3 weights for each direction, got {len(weights)}")
    directions = 1 if len(weights) <= 3 else 2
    count = len(weights) // directions
    by_cell = [weights[at : at + count] for at in range(0, len(weights), count)]
    cells = tuple(_cell({"use_bias": count == 3}, each, options) for each in by_cell)
    return [cells], options.merge or "concat"


def _cells(
    layer: Layer, read_weights: ReadWeights, options: KerasOptions, backwards: bool = False
) -> Any:
    """Converts a Keras layer: returns its cells by layer and direction, and its merge mode."""
    kind, config, group = layer.kind, layer.config, layer.group
    _check_known(kind, config)
    if kind == "Bidirectional":
        directions = []
        for key, direction in (("layer", "forward"), ("backward_layer", "backward")):
            inner = _child(config[key], f"{group}{direction}_layer/")
            if inner.kind not in ("GRU", "RNN"):
                raise TypeError(f"expected Bidirectional of GRU or RNN, got one of {inner.kind}")
            directions.append(_cells(inner, read_weights, options, direction == "backward")[0])
        if any(len(direction) != 1 for direction in directions):
            raise ValueError(
                "Bidirectional of an RNN of several cells is not supported: it is not a stack of "
                "bidirectional layers"
            )
        return [(directions[0][0][0], directions[1][0][0])], _merge(config, options)
    if kind == "GRUCell":
        return [(_cell(config, read_weights(group, _count(config)), options),)], None
    if kind not in KINDS:
        raise TypeError(f"expected a layer {', '.join(KINDS)}; got {kind}")
    _check_sequence(config, backwards)
    if kind == "GRU":
        return [(_cell(config, read_weights(f"{group}cell/", _count(config)), options),)], None
    inner = _child(config["cell"], f"{group}cell/")
    if inner.kind != "StackedRNNCells":
        if inner.kind != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got RNN of {inner.kind}")
        return _cells(inner, read_weights, options)
    _check_known(inner.kind, inner.config)
    cells = inner.config["cells"]
    groups = numbered([cell["class_name"] for cell in cells])
    layers = []
    for cell, name in zip(cells, groups, strict=True):
        if class_of(cell) != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got {class_of(cell)} among its cells")
        layers += _cells(_child(cell, f"{group}cell/cells/{name}/"), read_weights, options)[0]
    return layers, None


def _child(description: Mapping[str, Any], group: str) -> Layer:
    return Layer(class_of(description), description["config"], group)


def _merge(config: Mapping[str, Any], options: KerasOptions) -> Merge:
    if "merge_mode" not in config:
        return options.merge or "concat"
    if config["merge_mode"] not in MERGES:
        raise ValueError(f"merge_mode={config['merge_mode']!r} is not supported")
    return MERGES[config["merge_mode"]]


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


def _cell(config: Mapping[str, Any], weights: Sequence[Any], options: KerasOptions) -> GRUParams:
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
