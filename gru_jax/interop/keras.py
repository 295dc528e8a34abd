"""Keras 3: GRU layers and cells, their weight lists, and .keras and .weights.h5 files."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.interop.files import file_errors, is_path
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
from gru_jax.interop.keras_files import Layer, numbered, read_file
from gru_jax.stack import Merge, Stack

LAYOUT = GateLayout("zrn")

MERGES: dict[str, Merge] = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product"}
KINDS = ("GRU", "GRUCell", "RNN", "Bidirectional")

Take: TypeAlias = Callable[[str, int], Sequence[Any]]
"""`(group, count) -> arrays`: takes the weights of a cell."""


def load(
    theirs: Any,
    *,
    layer: str | None = None,
    reset_after: bool | None = None,
    merge: Merge | None = None,
) -> GRUParams | Stack:
    """Our parameters from Keras'.

    With ``reset_after`` biases of inputs and states are added up in all gates but the new one's.
    Dropout is no parameter: hand it to :func:`gru_jax.unroll_stack`. Neither is
    ``return_sequences``: ours return outputs and last states.

    Args:
        theirs: a built layer ``GRU``, ``GRUCell``, ``RNN`` of ``GRUCell``s or ``Bidirectional``
            of these; what ``get_weights`` of a ``GRU`` or a cell returns; a list of layers, or
            of the lists of weights of ``GRU`` and ``Bidirectional``, for a stack; or the path of
            a .keras or .weights.h5 file.
        layer: which layer of a file, by its name in a .keras file, "outer/inner" within another
            model, and by its group, such as "gru_1", in a .weights.h5 file; it may be left out
            where the file has one.
        reset_after: which equation weights obey that have no bias; with one, its shape says so.
        merge: how the directions of weights are joined, ``"concat"`` unless it is options.

    Weights alone, from a list or a .weights.h5 file, do not say which activations they are for:
    Keras' defaults are assumed.

    Returns:
        GRUParams for one cell; a Stack for ``Bidirectional``, several cells, or a list of layers.

    Raises:
        FileError: the file cannot be read or holds no such layer; a ValueError that names it.
        TypeError: a layer of another kind.
        ValueError: an option that gru_jax does not have (``activation``, ``go_backwards``,
            ``stateful``, ``unroll``, masks), or weights that do not fit together.
        ImportError: h5py is not installed.
    """
    options = KerasOptions(reset_after, merge)
    if is_path(theirs):
        with file_errors(theirs):
            return _of_file(theirs, layer, options)
    if layer is not None:
        raise ValueError(f"layer is for files, got layer={layer!r} with {type(theirs).__name__}")
    if not isinstance(theirs, (list, tuple)):
        return _one(*_of_layer(theirs, options))
    if theirs and all(hasattr(each, "ndim") for each in theirs):
        if len(theirs) > 3:
            raise ValueError(
                f"{len(theirs)} arrays may be those of two directions or of two cells; hand over "
                "the layer, or for Bidirectional a list of its list of weights"
            )
        return _one(*_of_weights(theirs, options))
    for each in theirs[:-1]:
        if getattr(each, "return_sequences", True) is False:
            raise ValueError(f"the layer {each.name} gives the next one its last state only")
    parts = [
        (_of_weights if isinstance(each, (list, tuple)) else _of_layer)(each, options)
        for each in theirs
    ]
    return _stack([part for layers, _ in parts for part in layers], [part[1] for part in parts])


def dump(ours: GRUParams | Stack) -> list[Any]:
    """Keras' weight lists, arrays of NumPy, from our parameters.

    Args:
        ours: a GRU or a stack of them.

    Returns:
        For GRUParams what ``set_weights`` of ``GRU``, ``GRUCell`` or ``RNN(GRUCell)`` takes; for
        a Stack a list of that for each layer, with two directions for ``Bidirectional``. The
        layer's ``reset_after`` must be that of the parameters, ``use_bias`` whether they have
        one, and ``merge_mode`` that of the stack.

    Raises:
        TypeError: another kind of cell.
        ValueError: a learned initial state, residual layers, or directions of which one has
            biases or another equation.
    """
    if not isinstance(ours, Stack):
        return _dump_cell(ours, None)
    check_stack(ours, "keras", tuple(MERGES.values()))
    return [_dump_layer(layer) for layer in ours.layers]


def _dump_layer(layer: tuple[Any, ...]) -> list[np.ndarray]:
    for cell in layer:
        check_gru(cell, "keras", ["after", "before"])
    if len({cell.reset for cell in layer}) > 1:
        raise ValueError("both directions of a layer in keras obey one equation")
    biased = any(map(has_bias, layer))
    return [array for cell in layer for array in _dump_cell(cell, biased)]


def _dump_cell(params: GRUParams, biased: bool | None) -> list[np.ndarray]:
    check_gru(params, "keras", ["after", "before"])
    weights = [LAYOUT.from_canonical(np.asarray(each)) for each in (params.w_x, params.w_h)]
    if biased or (biased is None and has_bias(params)):
        pair = list(map(LAYOUT.from_canonical, split_biases(params)))
        weights.append(np.stack(pair) if params.reset == "after" else pair[0])
    return weights


@dataclasses.dataclass(frozen=True)
class KerasOptions:
    """What a caller says of weights that do not say it themselves."""

    reset_after: bool | None
    merge: Merge | None


CellLayers: TypeAlias = list[tuple[GRUParams, ...]]


def _one(layers: CellLayers, merge: Merge | None) -> GRUParams | Stack:
    """What one layer of Keras is: parameters of a cell, or a stack."""
    if len(layers) == 1 and len(layers[0]) == 1:
        return layers[0][0]
    return _stack(layers, [merge])


def _stack(layers: CellLayers, merges: Sequence[Merge | None]) -> Stack:
    known: set[Merge] = {merge for merge in merges if merge}
    if len(known) > 1:
        raise ValueError(f"the layers join their directions by {' and by '.join(sorted(known))}")
    return validate_stack(Stack(tuple(layers), merge=known.pop() if known else "concat"))


def _of_file(path: Any, name: str | None, options: KerasOptions) -> GRUParams | Stack:
    layers, arrays = read_file(path)
    candidates = [each for each, layer in layers.items() if layer.kind in KINDS]
    if name is None:
        if len(candidates) != 1:
            there = ", ".join(map(repr, candidates)) or "none"
            raise ValueError(f"say which layer of the file to load, layer=...; there are {there}")
        name = candidates[0]
    if name not in layers:
        raise ValueError(f"it has no layer {name!r}; there are {', '.join(candidates)}")

    def take(group: str, count: int) -> list[np.ndarray]:
        names = [f"{group}vars/{index}" for index in range(count)]
        for each in names:
            if each not in arrays:
                raise ValueError(f"the weight {each} of the layer {name} is missing")
        return [arrays[each] for each in names]

    try:
        return _one(*_cells(layers[name], take, options))
    except (KeyError, AttributeError) as error:
        raise ValueError(f"what describes the layer {name} is incomplete: {error!r}") from error


def _of_layer(layer: Any, options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    if not hasattr(layer, "get_config") or not hasattr(layer, "get_weights"):
        raise TypeError(f"expected a layer of keras, weights or a path, got {type(layer).__name__}")
    if not getattr(layer, "built", True):
        raise ValueError(f"the layer {layer.name} is not built: it has no weights yet")
    weights = iter(layer.get_weights())
    described = Layer(type(layer).__name__, layer.get_config())
    return _cells(described, lambda _, count: list(itertools.islice(weights, count)), options)


def _of_weights(weights: Sequence[Any], options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    """A list of `get_weights`: of one cell, or of a forward one and then a backward one."""
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(f"expected 2 or 3 weights for each direction, got {len(weights)}")
    directions = 1 if len(weights) <= 3 else 2
    each = len(weights) // directions
    parts = [weights[at : at + each] for at in range(0, len(weights), each)]
    cells = tuple(_cell({"use_bias": each == 3}, part, options) for part in parts)
    return [cells], options.merge or "concat"


def _cells(layer: Layer, take: Take, options: KerasOptions, backwards: bool = False) -> Any:
    """The layers of cells that a layer of Keras is, and how directions are joined."""
    kind, config, group = layer.kind, layer.config, layer.group
    if kind == "Bidirectional":
        ways = []
        for key, way in (("layer", "forward"), ("backward_layer", "backward")):
            inner = _child(config[key], f"{group}{way}_layer/")
            if inner.kind not in ("GRU", "RNN"):
                raise TypeError(f"expected Bidirectional of GRU or RNN, got one of {inner.kind}")
            ways.append(_cells(inner, take, options, way == "backward")[0])
        if any(len(way) != 1 for way in ways):
            raise ValueError("Bidirectional of several cells is no stack of bidirectional layers")
        return [(ways[0][0][0], ways[1][0][0])], _merge(config, options)
    if kind == "GRUCell":
        return [(_cell(config, take(group, _count(config)), options),)], None
    if kind not in KINDS:
        raise TypeError(f"expected a layer {', '.join(KINDS)}; got {kind}")
    _check_sequence(config, backwards)
    if kind == "GRU":
        cell = Layer("GRUCell", config, f"{group}cell/")
        return _cells(cell, take, options)
    inner = _child(config["cell"], f"{group}cell/")
    if inner.kind != "StackedRNNCells":
        if inner.kind != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got RNN of {inner.kind}")
        return _cells(inner, take, options)
    cells = inner.config["cells"]
    groups = numbered([cell["class_name"] for cell in cells])
    layers = []
    for cell, name in zip(cells, groups, strict=True):
        if cell["class_name"] != "GRUCell":
            raise TypeError(f"expected RNN of GRUCell, got {cell['class_name']} among its cells")
        layers += _cells(_child(cell, f"{group}cell/cells/{name}/"), take, options)[0]
    return layers, None


def _child(described: Mapping[str, Any], group: str) -> Layer:
    return Layer(described["class_name"], described["config"], group)


def _merge(config: Mapping[str, Any], options: KerasOptions) -> Merge:
    if "merge_mode" not in config:
        return options.merge or "concat"
    if config["merge_mode"] not in MERGES:
        raise ValueError(f"merge_mode={config['merge_mode']!r} is not supported")
    return MERGES[config["merge_mode"]]


def _count(config: Mapping[str, Any]) -> int:
    return 3 if config.get("use_bias", True) else 2


def _check_sequence(config: Mapping[str, Any], backwards: bool) -> None:
    """ValueError for an option of a layer over sequences that changes what it computes."""
    for option, ours in (("go_backwards", backwards), ("stateful", False), ("unroll", False)):
        if config.get(option, ours) != ours:
            raise ValueError(
                f"{option}={config[option]!r} is not supported; how steps run is options to "
                "gru_jax.unroll (reverse, h0)"
            )


def _cell(config: Mapping[str, Any], weights: Sequence[Any], options: KerasOptions) -> GRUParams:
    for option, ours in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if config.get(option, ours) != ours:
            raise ValueError(f"{option}={config[option]!r} is not supported, only {ours!r} is")
    if len(weights) != _count(config):
        raise ValueError(f"expected {_count(config)} weights, got {len(weights)}")
    w_x, w_h = load_matrices(LAYOUT, ("kernel", weights[0]), ("recurrent_kernel", weights[1]))
    reset_after = config.get("reset_after", options.reset_after)
    if options.reset_after is not None and options.reset_after != reset_after:
        raise ValueError(f"the layer has reset_after={reset_after}, got {options.reset_after}")
    if len(weights) == 2:
        if reset_after is None:
            raise ValueError("say reset_after=...: weights without a bias do not")
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
    pair = as_array("bias", weights[2], (2, 3 * hidden), "(inputs and states, 3 * hidden)")
    bias, recurrent_bias = LAYOUT.to_canonical(pair)
    return make_gru(w_x, w_h, *sum_biases(bias, recurrent_bias, reset))
