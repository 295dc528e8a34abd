"""The one-block kernels for any batch size and for operands that may not fit float16."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.carry import pvary_to_common_axes
from gru_jax._unroll.fused.interface import VALID
from gru_jax._unroll.fused.one_block import reference
from gru_jax._unroll.fused.one_block.backward import launch_backward
from gru_jax._unroll.fused.one_block.forward import launch_forward
from gru_jax._unroll.fused.one_block.interface import (
    BACKWARD_BATCH_AXES,
    BACKWARD_RESULT_BATCH_AXES,
    FORWARD_BATCH_AXES,
    FORWARD_RESULT_BATCH_AXES,
    LARGEST_OPERAND,
    BackwardArgs,
    BackwardResult,
    ForwardArgs,
    ForwardResult,
    matmul_dtype,
)
from gru_jax._unroll.fused.one_block.launch import choose_tile
from gru_jax._unroll.fused.transforms import KernelInterface
from gru_jax.typing import Array, DType

SCALED_EXPONENT = 4
"""The largest cotangent of a sequence is scaled to at most 2 to this power.

float16 ends at 2 to the power of 16: sums over steps may grow by a factor of 4096.
"""


class Kernels(NamedTuple):
    """The two kernels, or their references."""

    forward: Callable[..., ForwardResult]
    backward: Callable[..., BackwardResult]


REFERENCES = Kernels(reference.forward, reference.backward)

INTERFACE = KernelInterface(
    REFERENCES,
    (
        (FORWARD_BATCH_AXES, FORWARD_RESULT_BATCH_AXES),
        (BACKWARD_BATCH_AXES, BACKWARD_RESULT_BATCH_AXES),
    ),
    has_copies=True,
)
"""How JAX transforms these kernels."""


def make_kernels(num_multiprocessors: int, *, interpret: Any = None) -> Kernels:
    """The kernels, for hidden sizes of 64, 128 and 192.

    Args:
        num_multiprocessors: of the device.
        interpret: as for ``plgpu.kernel``: None to compile, or how to run without a GPU.
    """

    def launch(launcher: Any, arrays: Any, axes: Any, result_axes: Any, **options: Any) -> Any:
        copies, _, batch, _ = arrays[0][0].shape
        hidden = arrays[0].w_h.shape[1]
        tile = choose_tile(copies, batch, hidden, num_multiprocessors)
        # A batch below a tile is padded. Sequences are independent: the padding may be anything.
        missing = max(0, tile - batch)
        if missing:
            arrays = _map_batch(functools.partial(_pad, missing), arrays, axes)
        result = launcher(*arrays, tile=tile, interpret=interpret, **options)
        if missing:
            result = _map_batch(functools.partial(_crop, batch), result, result_axes)
        return result

    def forward(args: ForwardArgs, *, dtype: DType, save: bool) -> ForwardResult:
        options = {"dtype": dtype, "save": save}

        def by_kernel(args: ForwardArgs) -> ForwardResult:
            axes = (FORWARD_BATCH_AXES,)
            result = launch(launch_forward, (args,), axes, FORWARD_RESULT_BATCH_AXES, **options)
            return _vary_like(result, args)

        if matmul_dtype(args.w_h.dtype) != jnp.float16:
            return by_kernel(args)
        operands = (args.w_h, args.h0, args.reset_state)
        fits = [abs(array).max().astype(jnp.float32) <= LARGEST_OPERAND for array in operands]
        return lax.cond(
            functools.reduce(jnp.logical_and, fits),
            by_kernel,
            lambda args: _vary_like(reference.forward(args, **options), args),
            args,
        )

    def backward(args: BackwardArgs) -> BackwardResult:
        is_float16 = matmul_dtype(args.w_h.dtype) == jnp.float16
        exponent = jnp.zeros_like(args.d_h_last[..., 0], dtype=jnp.int32)
        if is_float16:
            exponent = _scale_exponent(args)
        axes = (BACKWARD_BATCH_AXES, 1)
        result = launch(launch_backward, (args, exponent), axes, BACKWARD_RESULT_BATCH_AXES)
        result = _vary_like(result, args)
        if not is_float16:
            return result
        # An operand beyond the range is infinite. It remains so, or NaN, in all that follow until
        # the first step or a reset.
        ends = jax.tree.leaves((result.d_h0, result.d_reset_state))
        is_finite = functools.reduce(jnp.logical_and, [jnp.isfinite(end).all() for end in ends])
        return lax.cond(
            is_finite,
            lambda args, result: result,
            lambda args, result: _vary_like(reference.backward(args), args),
            args,
            result,
        )

    return Kernels(forward, backward)


def _scale_exponent(args: BackwardArgs) -> Array:
    """The power of two for each sequence (C, B), see :func:`launch_backward`."""
    d_ys = args.d_ys
    if args.flags is not None:
        is_valid = jnp.broadcast_to((args.flags & VALID != 0)[..., None], d_ys.shape)
        d_ys = jnp.where(is_valid, d_ys, jnp.zeros_like(d_ys))
    largest = jnp.maximum(abs(d_ys).max((1, 3)).astype(jnp.float32), abs(args.d_h_last).max(-1))
    bits = lax.bitcast_convert_type(largest, jnp.int32)
    exponent = SCALED_EXPONENT - 1 - ((bits >> 23) - 127)
    return jnp.clip(exponent, -126, 126)


def _map_batch(function: Callable[[int, Array], Array], tree: Any, axes: Any) -> Any:
    """``function(axis, array)`` of all arrays that have a batch axis."""
    if tree is None or axes is None:
        return tree
    if isinstance(tree, tuple):
        mapped = [_map_batch(function, *pair) for pair in zip(tree, axes, strict=True)]
        return tree._make(mapped) if hasattr(tree, "_make") else tuple(mapped)  # pyright: ignore[reportAttributeAccessIssue]
    return function(axes, tree)


def _pad(missing: int, axis: int, array: Array) -> Array:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, missing)
    return jnp.pad(array, widths)


def _crop(batch: int, axis: int, array: Array) -> Array:
    return lax.slice_in_dim(array, 0, batch, axis=axis)


def _vary_like(result: Any, args: Any) -> Any:
    """Results that vary over devices as the arguments do."""
    return pvary_to_common_axes((result, args))[0]
