"""The pair of kernels for Hopper GPUs, for any batch."""

import functools
from typing import Any

import jax.numpy as jnp

from gru_jax._unroll.fused.hopper import backward, forward
from gru_jax._unroll.fused.hopper.cluster import SEQUENCES, UNITS, Team
from gru_jax._unroll.fused.interface import Gates, Kernels
from gru_jax._unroll.sharding import vary_alike
from gru_jax.typing import Array, DType


def pair(*, interpret: Any = None) -> Kernels:
    """The kernels, for hidden sizes that are multiples of 64.

    Args:
        interpret: as for ``plgpu.kernel``: None to compile, or how to run without a GPU.
    """
    return Kernels(
        functools.partial(_forward, interpret=interpret),
        functools.partial(_backward, interpret=interpret),
    )


def _forward(
    projected: Gates,
    w_h: Array,
    b_hn: Array,
    start: Array,
    initial: Array,
    valid: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
    dtype: DType,
    interpret: Any,
) -> tuple[Array, Array]:
    batch, hidden = start.shape
    x_r, x_z, x_n = (_pad(part, 1) for part in projected)
    states, last = forward.walk(
        Team(hidden // UNITS),
        (x_r, x_z, x_n),
        w_h,
        b_hn,
        _pad(start, 0),
        _pad(initial, 0),
        _pack_flags(valid, resets),
        reverse=reverse,
        dtype=dtype,
        interpret=interpret,
    )
    # What a kernel gives is not known to differ from device to device, as its arguments do.
    states, last, _ = vary_alike((states, last, start))
    return states[:, :batch], last[:batch]


def _backward(
    d_states: Array,
    through: Array,
    slopes: Gates,
    u_transposed: Array,
    d_last: Array,
    *,
    reverse: bool,
    interpret: Any,
) -> tuple[Array, Array]:
    batch, hidden = d_last.shape
    slope_r, slope_z, slope_n = (_pad(part, 1) for part in slopes)
    d, d_start = backward.walk(
        Team(hidden // UNITS),
        _pad(d_states, 1),
        _pad(through, 1),
        (slope_r, slope_z, slope_n),
        u_transposed,
        _pad(d_last, 0),
        reverse=reverse,
        interpret=interpret,
    )
    d, d_start, _ = vary_alike((d, d_start, d_last))
    return d[:, :batch], d_start[:batch]


def _pack_flags(valid: Array | None, resets: Array | None) -> Array | None:
    """All flags of a step in one number, (T, B); None where there are none."""
    if valid is None and resets is None:
        return None
    bits = forward.VALID if valid is None else forward.VALID * valid.astype(jnp.int32)
    if resets is not None:
        bits = bits + forward.RESETS * resets.astype(jnp.int32)
    return _pad(jnp.asarray(bits), 1)


def _pad(array: Array, axis: int) -> Array:
    """Whole batch tiles; sequences know nothing of one another, so that anything will do there."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, -array.shape[axis] % SEQUENCES)
    return jnp.pad(array, widths)
