"""Equinox: `equinox.nn.GRUCell`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import import_optional, is_exactly
from gru_jax.interop.gate_layout import (
    GateLayout,
    as_array,
    check_gru,
    check_unknown_options,
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

KNOWN_OPTIONS = frozenset({"input_size", "hidden_size", "use_bias", "dtype", "key"})


def load(source: Any) -> GRUParams | Stack:
    """Loads parameters from Equinox.

    Args:
        source: an ``equinox.nn.GRUCell``; or a tuple of layers, each a cell or a pair of cells. The
            second cell of a pair reads backward.

    Returns:
        GRUParams for one cell, a Stack for a tuple.

    Raises:
        TypeError: ``source`` is not a GRUCell or is of a subclass, or a weight has a wrong dtype.
        ValueError: a weight has a wrong shape, or the cell an option that is not known.
    """
    return load_cells(_load_cell, source)


def dump(params: GRUParams | Stack) -> Any:
    """Converts parameters to an Equinox cell; the inverse of :func:`load`.

    Returns:
        An ``equinox.nn.GRUCell``; for a Stack a tuple of layers.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: ``reset="before"``, a learned initial state, ``residual=True``, or a ``merge``
            other than ``"concat"``.
        ImportError: Equinox is not installed.
    """
    return dump_cells(_dump_cell, params, "equinox")


def _load_cell(cell: Any) -> GRUParams:
    if not is_exactly(cell, "equinox.nn", "GRUCell"):
        raise TypeError(f"expected exactly an equinox.nn.GRUCell, got {type(cell).__name__}")
    check_unknown_options(cell, type(cell), KNOWN_OPTIONS)
    w_x, w_h = load_matrices(LAYOUT, ("weight_ih", cell.weight_ih), ("weight_hh", cell.weight_hh))
    if cell.bias is None:
        return make_gru(w_x, w_h)
    bias = load_bias(LAYOUT, "bias", cell.bias, len(w_h))
    b_hn = as_array("bias_n", cell.bias_n, (len(w_h),), "(hidden,)")
    return make_gru(w_x, w_h, bias, b_hn.copy())


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
