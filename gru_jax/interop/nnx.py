"""Flax NNX: the parameters of `flax.nnx.GRUCell`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import import_optional
from gru_jax.interop.gate_layout import (
    GateLayout,
    check_gru,
    check_keys,
    dump_cells,
    load_bias,
    load_cells,
    load_matrices,
    make_gru,
    split_biases,
    unwrap_params,
)
from gru_jax.stack import Stack

LAYOUT = GateLayout("rzn")


def load(theirs: Any) -> GRUParams | Stack:
    """Our parameters from NNX's.

    A state does not say which activations it is for: the defaults are assumed.

    Args:
        theirs: a ``flax.nnx.GRUCell``; its state, as ``nnx.state`` or a mapping
            ``{"dense_i": {"kernel", "bias"}, "dense_h": {"kernel"}}``; or a tuple of layers, each
            a cell or a pair of cells, of which the second reads backward.

    Returns:
        GRUParams for one cell, without the bias ``b_hn`` that NNX's lacks; a Stack for a tuple.

    Raises:
        ValueError, TypeError: it is no GRUCell's; another activation than tanh and sigmoid; a
            weight has another shape or dtype.
    """
    return load_cells(_load_cell, theirs)


def dump(ours: GRUParams | Stack) -> Any:
    """NNX's parameters, arrays of NumPy, from ours; the inverse of :func:`load`.

    A model without biases comes with zeros, for NNX's has always some.

    Returns:
        The mapping that ``nnx.update(cell, ...)`` takes; for a Stack a tuple of layers.

    Raises:
        TypeError: another kind of cell.
        ValueError: ``b_hn`` is not zero, for NNX's cell has no such bias; ``reset="before"``, a
            learned initial state, residual layers or directions that are not concatenated.
    """
    return dump_cells(_dump_cell, ours, "nnx")


def _load_cell(theirs: Any) -> GRUParams:
    if not isinstance(theirs, Mapping):
        theirs = _state_of(theirs)
    cell = unwrap_params(theirs, "dense_i", "the state of flax.nnx.GRUCell")
    check_keys(["dense_i", "dense_h"], cell, "a flax.nnx.GRUCell")
    check_keys(["kernel", "bias"], cell["dense_i"], "dense_i of a flax.nnx.GRUCell")
    check_keys(["kernel"], cell["dense_h"], "dense_h of a flax.nnx.GRUCell")
    w_x, w_h = load_matrices(
        LAYOUT,
        ("dense_i/kernel", cell["dense_i"]["kernel"]),
        ("dense_h/kernel", cell["dense_h"]["kernel"]),
    )
    return make_gru(w_x, w_h, load_bias(LAYOUT, "dense_i/bias", cell["dense_i"]["bias"], len(w_h)))


def _state_of(module: Any) -> Mapping[str, Any]:
    nnx = import_optional("flax.nnx")
    if not isinstance(module, nnx.GRUCell):
        raise TypeError(f"expected a flax.nnx.GRUCell or its state, got {type(module).__name__}")
    for name, ours in (("gate_fn", nnx.sigmoid), ("activation_fn", nnx.tanh)):
        theirs = getattr(module, name)
        if theirs is not ours:
            came = getattr(theirs, "__name__", theirs)
            raise ValueError(f"{name} is {came}; gru_jax has {ours.__name__} only")
    return nnx.state(module, nnx.Param)


def _dump_cell(params: GRUParams) -> dict[str, dict[str, np.ndarray]]:
    check_gru(params, "nnx", ["after"])
    bias, recurrent_bias = split_biases(params)
    if recurrent_bias.any():
        raise ValueError(
            "b_hn is not zero, and flax.nnx.GRUCell has no such bias (google/flax issue 5594); "
            "gru_jax.nn.GRUCell is a cell for nnx.RNN that has"
        )
    return {
        "dense_i": {"kernel": np.asarray(params.w_x), "bias": bias},
        "dense_h": {"kernel": np.asarray(params.w_h)},
    }
