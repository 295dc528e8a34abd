"""Flax Linen: parameters of `flax.linen.GRUCell`."""

from typing import Any

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import import_optional, is_exactly
from gru_jax.interop.gate_layout import (
    as_array,
    check_gru,
    check_keys,
    check_unknown_options,
    dump_cells,
    load_cells,
    make_gru,
    split_biases,
    unwrap_params,
)
from gru_jax.stack import Stack

GATES = "rzn"

KNOWN_OPTIONS = frozenset(
    {
        *("features", "dtype", "param_dtype", "parent", "name"),
        *("kernel_init", "recurrent_kernel_init", "bias_init"),
    }
)
"""Fields of a cell that do not change what it computes from its parameters."""


def load(source: Any) -> GRUParams | Stack:
    """Loads parameters from Linen.

    Linen's parameters do not record ``gate_fn``, ``activation_fn`` and ``carry_init``; the defaults
    are assumed. A cell that is bound to its parameters has them, and they are checked. Its
    ``dtype`` is that in which it multiplies: pass inputs of that dtype to :func:`gru_jax.unroll`.

    Args:
        source: a cell's mapping, ``{"ir": {"kernel", "bias"}, ..., "hn": ...}``, either bare or as
            ``init`` of the cell or of ``flax.linen.RNN`` returns it; a ``flax.linen.GRUCell`` that
            is bound to its parameters, ``cell.bind(variables)``; or a tuple of layers, each a cell
            or a pair of cells. The second cell of a pair reads backward.

    Returns:
        GRUParams for one cell, a Stack for a tuple.

    Raises:
        ValueError, TypeError: ``source`` is neither the mapping of a GRUCell nor a bound one, of
            exactly that class, its activations are not tanh and sigmoid, it has a ``carry_init``
            other than zeros or an option that is not known, or a weight has a wrong shape or dtype.
    """
    return load_cells(_load_cell, source)


def dump(params: GRUParams | Stack) -> Any:
    """Converts parameters to Linen's, as NumPy arrays; the inverse of :func:`load`.

    Linen's GRUCell always has biases, so missing biases become zeros.

    Returns:
        The mapping that ``GRUCell.apply({"params": ...})`` takes; for a Stack a tuple of layers.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: ``reset="before"``, a learned initial state, ``residual=True``, or a ``merge``
            other than ``"concat"``.
    """
    return dump_cells(_dump_cell, params, "linen")


def _load_cell(source: Any) -> GRUParams:
    if is_exactly(source, "flax.linen", "GRUCell"):
        if source.scope is None:
            raise ValueError("the cell has no parameters: pass cell.bind(variables)")
        check_unknown_options(source, import_optional("flax.linen").GRUCell, KNOWN_OPTIONS)
        source = source.variables
    cell = unwrap_params(source, "ir", "the parameters of flax.linen.GRUCell")
    check_keys([f"{side}{gate}" for side in "ih" for gate in GATES], cell, "a flax.linen.GRUCell")
    for name, dense in cell.items():
        leaves = ["kernel"] if name in ("hr", "hz") else ["kernel", "bias"]
        check_keys(leaves, dense, f"{name} of a flax.linen.GRUCell")

    def packed(side: str, leaf: str, gates: str, *shape: int | None) -> np.ndarray:
        parts = [
            as_array(f"{side}{gate}/{leaf}", cell[side + gate][leaf], shape, "(..., hidden)")
            for gate in gates
        ]
        return np.concatenate(parts, axis=-1)

    hidden = np.size(cell["hn"]["bias"])
    return make_gru(
        packed("i", "kernel", GATES, None, hidden),
        packed("h", "kernel", GATES, hidden, hidden),
        packed("i", "bias", GATES, hidden),
        packed("h", "bias", "n", hidden),
    )


def _dump_cell(params: GRUParams) -> dict[str, dict[str, np.ndarray]]:
    check_gru(params, "linen", ["after"])
    bias, recurrent_bias = split_biases(params)
    packed = {"i": (params.w_x, bias), "h": (params.w_h, recurrent_bias)}
    cell = {}
    for side, (kernel, bias) in packed.items():
        kernels, biases = (np.split(np.asarray(array), 3, axis=-1) for array in (kernel, bias))
        for gate, gate_kernel, gate_bias in zip(GATES, kernels, biases, strict=True):
            cell[side + gate] = {"kernel": gate_kernel, "bias": gate_bias}
    # Linen has one bias for each of these gates, on the input side.
    del cell["hr"]["bias"], cell["hz"]["bias"]
    return cell
