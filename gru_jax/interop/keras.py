"""Keras 3: GRU layers and cells, their weight lists, and .keras and .weights.h5 files."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import file_errors, is_path
from gru_jax.interop.gate_layout import (
    check_gru,
    check_stack,
    has_bias,
    split_biases,
    validate_stack,
)
from gru_jax.interop.keras_files import Layer, read_file
from gru_jax.interop.keras_layers import (
    KINDS,
    LAYOUT,
    MERGES,
    CellLayers,
    KerasOptions,
    cells_of_layer,
    check_functions,
    load_cell,
)
from gru_jax.stack import Merge, Stack


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
        return _one(*cells_of_layer(layers[name], read_weights, options))
    except (KeyError, AttributeError) as error:
        raise ValueError(f"the description of the layer {name} is incomplete: {error!r}") from error


def _load_layer(layer: Any, options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    if not hasattr(layer, "get_config") or not hasattr(layer, "get_weights"):
        raise TypeError(f"expected a Keras layer, weights or a path, got {type(layer).__name__}")
    if not getattr(layer, "built", True):
        raise ValueError(f"the layer {layer.name} is not built, so it has no weights yet")
    weights = iter(layer.get_weights())
    description = Layer(type(layer).__name__, layer.get_config())
    cells = cells_of_layer(
        description, lambda _, count: list(itertools.islice(weights, count)), options
    )
    check_functions(layer)
    return cells


def _load_weights(weights: Sequence[Any], options: KerasOptions) -> tuple[CellLayers, Merge | None]:
    """Loads the result of `get_weights`: one cell, or a forward cell followed by a backward one."""
    if len(weights) not in (2, 3, 4, 6):
        raise ValueError(f"expected 2 or 3 weights for each direction, got {len(weights)}")
    directions = 1 if len(weights) <= 3 else 2
    count = len(weights) // directions
    by_cell = [weights[at : at + count] for at in range(0, len(weights), count)]
    cells = tuple(load_cell({"use_bias": count == 3}, each, options) for each in by_cell)
    return [cells], options.merge or "concat"
