"""Equinox: `equinox.nn.GRUCell`, which is its own parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import import_optional
from gru_jax.interop.gate_layout import (
    GateLayout,
    as_array,
    check_gru,
    dump_cells,
    has_bias,
    load_bias,
    load_cells,
    load_matrices,
    make_gru,
    split_biases,
)
from gru_jax.stack import Stack

LAYOUT = GateLayout("rzn", gates_first=True)


def load(theirs: Any) -> GRUParams | Stack:
    """Our parameters from Equinox's.

    Args:
        theirs: an ``equinox.nn.GRUCell``; or a tuple of layers, each a cell or a pair of cells,
            of which the second reads backward.

    Returns:
        GRUParams for one cell, a Stack for a tuple.

    Raises:
        TypeError: it is no GRUCell.
        ValueError, TypeError: a weight has another shape or dtype.
    """
    return load_cells(_load_cell, theirs)


def dump(ours: GRUParams | Stack) -> Any:
    """Equinox's cell from our parameters; the inverse of :func:`load`.

    Returns:
        An ``equinox.nn.GRUCell``; for a Stack a tuple of layers.

    Raises:
        TypeError: another kind of cell.
        ValueError: ``reset="before"``, a learned initial state, residual layers or directions
            that are not concatenated.
        ImportError: Equinox is not installed.
    """
    return dump_cells(_dump_cell, ours, "equinox")


def _load_cell(theirs: Any) -> GRUParams:
    if not {"weight_ih", "weight_hh", "bias_n"} <= set(dir(theirs)):
        raise TypeError(f"expected an equinox.nn.GRUCell, got {type(theirs).__name__}")
    w_x, w_h = load_matrices(
        LAYOUT, ("weight_ih", theirs.weight_ih), ("weight_hh", theirs.weight_hh)
    )
    if theirs.bias is None:
        return make_gru(w_x, w_h)
    bias = load_bias(LAYOUT, "bias", theirs.bias, len(w_h))
    return make_gru(w_x, w_h, bias, as_array("bias_n", theirs.bias_n, (len(w_h),), "(hidden,)"))


def _dump_cell(params: GRUParams) -> Any:
    check_gru(params, "equinox", ["after"])
    equinox = import_optional("equinox")
    biased = has_bias(params)
    cell = equinox.nn.GRUCell(
        params.input_size, params.hidden_size, use_bias=biased, key=jax.random.key(0)
    )
    weights = [LAYOUT.from_canonical(np.asarray(each)) for each in (params.w_x, params.w_h)]
    if biased:
        bias, recurrent_bias = split_biases(params)
        weights += [LAYOUT.from_canonical(bias), recurrent_bias[2 * params.hidden_size :]]
    return equinox.tree_at(
        lambda cell: [cell.weight_ih, cell.weight_hh, *([cell.bias, cell.bias_n] * biased)],
        cell,
        list(map(jnp.asarray, weights)),
    )
