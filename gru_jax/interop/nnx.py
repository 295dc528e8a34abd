"""Flax NNX: parameters of `flax.nnx.GRUCell`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import import_optional, is_exactly
from gru_jax.interop.gate_layout import (
    GateLayout,
    check_gru,
    check_keys,
    check_unknown_options,
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

KNOWN_OPTIONS = frozenset(
    {
        *("in_features", "hidden_features", "dtype", "param_dtype", "keep_rngs", "rngs"),
        *("kernel_init", "recurrent_kernel_init", "bias_init", "gate_fn", "activation_fn"),
        *("carry_init", "kernel_metadata", "recurrent_kernel_metadata", "bias_metadata"),
    }
)
"""Arguments of a cell that are checked here, or do not change what it computes."""


def load(source: Any) -> GRUParams | Stack:
    """Loads parameters from NNX.

    A state does not record the activations; the defaults are assumed. The ``dtype`` of a cell is
    that in which it multiplies: pass inputs of that dtype to :func:`gru_jax.unroll`.

    Args:
        source: a ``flax.nnx.GRUCell``; its state, as ``nnx.state`` or a mapping
            ``{"dense_i": {"kernel", "bias"}, "dense_h": {"kernel"}}``; or a tuple of layers, each
            a cell or a pair of cells. The second cell of a pair reads backward.

    Returns:
        GRUParams for one cell, without ``b_hn``, which NNX's cell lacks; a Stack for a tuple.

    Raises:
        TypeError: ``source`` is neither a GRUCell, of exactly that class, nor a state.
        ValueError, TypeError: its activations are not tanh and sigmoid, it has a ``carry_init``
            other than zeros, a ``promote_dtype`` of its own or an option that is not known, or a
            weight is missing or has a wrong shape or dtype.
    """
    return load_cells(_load_cell, source)


def dump(params: GRUParams | Stack) -> Any:
    """Converts parameters to NNX's, as NumPy arrays; the inverse of :func:`load`.

    NNX's GRUCell always has an input bias, so a missing bias becomes zeros.

    Returns:
        The mapping that ``nnx.update(cell, ...)`` takes; for a Stack a tuple of layers.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: ``b_hn`` is not zero (NNX's cell has no such bias), ``reset="before"``, a
            learned initial state, ``residual=True``, or a ``merge`` other than ``"concat"``.
    """
    return dump_cells(_dump_cell, params, "nnx")


def _load_cell(source: Any) -> GRUParams:
    state = source if isinstance(source, Mapping) else _state_of(source)
    cell = unwrap_params(state, "dense_i", "the state of flax.nnx.GRUCell")
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
    if not is_exactly(module, "flax.nnx", "GRUCell"):
        raise TypeError(
            f"expected exactly a flax.nnx.GRUCell, or its state; got {type(module).__name__}"
        )
    nnx = import_optional("flax.nnx")
    check_unknown_options(module, nnx.GRUCell, KNOWN_OPTIONS)
    if module.carry_init not in (None, nnx.initializers.zeros_init()):
        raise ValueError(
            "carry_init is not supported: load nnx.state(cell), and pass the initial state to "
            "gru_jax.unroll as h0"
        )
    for name, supported in (("gate_fn", nnx.sigmoid), ("activation_fn", nnx.tanh)):
        function = getattr(module, name)
        if function is not supported:
            got = getattr(function, "__name__", function)
            raise ValueError(f"{name} is {got}; only {supported.__name__} is supported")
    return nnx.state(module, nnx.Param)


def _dump_cell(params: GRUParams) -> dict[str, dict[str, np.ndarray]]:
    check_gru(params, "nnx", ["after"])
    bias, recurrent_bias = split_biases(params)
    if recurrent_bias.any():
        raise ValueError(
            "b_hn is not zero, and flax.nnx.GRUCell has no such bias (google/flax issue 5594); "
            "gru_jax.nn.GRUCell has one and runs in nnx.RNN"
        )
    return {
        "dense_i": {"kernel": np.asarray(params.w_x), "bias": bias},
        "dense_h": {"kernel": np.asarray(params.w_h)},
    }
