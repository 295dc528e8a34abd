"""The kernels for Hopper GPUs, for any batch size."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gru_jax._unroll.carry import pvary_to_common_axes
from gru_jax._unroll.fused import interface
from gru_jax._unroll.fused.hopper.backward import launch_backward
from gru_jax._unroll.fused.hopper.cluster import TILE_BATCH
from gru_jax._unroll.fused.hopper.forward import launch_forward
from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs, FusedKernels
from gru_jax.typing import Array, DType

ArgsT = TypeVar("ArgsT", ForwardArgs, BackwardArgs)


def make_kernels(*, interpret: Any = None) -> FusedKernels:
    """The kernels, for hidden sizes that are multiples of 64.

    ``interpret`` is as for ``plgpu.kernel``: None to compile, or how to run without a GPU.
    """

    def forward(args: ForwardArgs, *, reverse: bool, dtype: DType) -> tuple[Array, Array]:
        padded = _pad_batch(args, interface.FORWARD_BATCH_AXES)
        outputs = launch_forward(padded, reverse=reverse, dtype=dtype, interpret=interpret)
        return _crop_batch(*outputs, args.h0)

    def backward(args: BackwardArgs, *, reverse: bool) -> tuple[Array, Array]:
        padded = _pad_batch(args, interface.BACKWARD_BATCH_AXES)
        outputs = launch_backward(padded, reverse=reverse, interpret=interpret)
        return _crop_batch(*outputs, args.d_h_last)

    return FusedKernels(forward, backward)


def _pad_batch(args: ArgsT, batch_axes: Sequence[Any]) -> ArgsT:
    """Pads the batch to whole tiles. Sequences are independent: the padding may be anything."""

    def pad(axis: int, array: Array) -> Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, -array.shape[axis] % TILE_BATCH)
        return jnp.pad(array, widths)

    return type(args)._make(
        field if axis is None else jax.tree.map(functools.partial(pad, axis), field)
        for field, axis in zip(args, batch_axes, strict=True)
    )


def _crop_batch(per_step: Array, last: Array, like: Array) -> tuple[Array, Array]:
    """Results without the padding, varying over devices as the argument ``like`` (B, H) does."""
    per_step, last, _ = pvary_to_common_axes((per_step, last, like))
    return per_step[:, : len(like)], last[: len(like)]
