"""Haiku: parameters of `haiku.GRU`."""

from typing import Any

import numpy as np

from gru_jax.cells import GRUParams
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

LAYOUT = GateLayout("zrn", inverted_update_gate=True)


def load(source: Any) -> GRUParams | Stack:
    """Loads parameters from Haiku; they have ``reset="before"``.

    Args:
        source: a cell's mapping, ``{"w_i", "w_h", "b"}``, either bare or under its module's name as
            ``init`` returns it; or a tuple of layers, each a cell or a pair of cells. The second
            cell of a pair reads backward.

    Returns:
        GRUParams for one cell, a Stack for a tuple.

    Raises:
        ValueError, TypeError: ``source`` is not the mapping of a GRU, or a weight has a wrong shape
            or dtype.
    """
    return load_cells(_load_cell, source)


def dump(params: GRUParams | Stack) -> Any:
    """Converts parameters to Haiku's, as NumPy arrays; the inverse of :func:`load`.

    Haiku's GRU always has a bias, so missing biases become zeros.

    Returns:
        ``{"gru": {"w_i", "w_h", "b"}}``, as ``apply`` takes it; for a Stack a tuple of layers.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: ``reset="after"``, a learned initial state, ``residual=True``, or a ``merge``
            other than ``"concat"``.
    """
    return dump_cells(_dump_cell, params, "haiku")


def _load_cell(source: Any) -> GRUParams:
    cell = unwrap_params(source, "w_i", "the parameters of haiku.GRU")
    check_keys(["w_i", "w_h", "b"], cell, "a haiku.GRU")
    w_x, w_h = load_matrices(LAYOUT, ("w_i", cell["w_i"]), ("w_h", cell["w_h"]))
    return make_gru(w_x, w_h, load_bias(LAYOUT, "b", cell["b"], len(w_h)), reset="before")


def _dump_cell(params: GRUParams) -> dict[str, dict[str, np.ndarray]]:
    check_gru(params, "haiku", ["before"])
    bias, _ = split_biases(params)
    arrays = {"w_i": params.w_x, "w_h": params.w_h, "b": bias}
    return {"gru": {name: LAYOUT.from_canonical(np.asarray(each)) for name, each in arrays.items()}}
