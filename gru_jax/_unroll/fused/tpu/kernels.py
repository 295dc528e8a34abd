"""Kernels for TPU: the weights stay in VMEM, and blocks of steps are streamed through it.

Notation:
    T, B, H: time steps, sequences, hidden units.
    S, N: steps and sequences of a tile (:class:`~gru_jax._unroll.fused.tpu.tiling.Tile`).
The grid is (B / N, T / S), rounded up. A tile's state stays in VMEM from its first block of steps
to its last.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from gru_jax._compat import varying_like
from gru_jax._unroll.fused import interface
from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs, FusedKernels
from gru_jax._unroll.fused.tpu.tiling import TpuSpec, choose_tile, unroll_factor
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType


def make_kernels(spec: TpuSpec, *, interpret: Any = False) -> FusedKernels:
    """The kernels for a kind of TPU; ``interpret`` is as for ``pl.pallas_call``."""
    time_loop = functools.partial(_time_loop_kernel, spec=spec, interpret=interpret)

    def forward(args: ForwardArgs, *, reverse: bool, dtype: DType) -> tuple[Array, Array]:
        flags = interface.pack_flags(args.valid, args.resets)
        return time_loop(
            _forward_step,
            per_step=[*args.projected, *([] if flags is None else [flags[..., None]])],
            weights=[args.w_h, args.b_hn[None]],
            per_batch=[args.reset_state],
            init=args.h0,
            reverse=reverse,
            dtype=dtype,
        )

    def backward(args: BackwardArgs, *, reverse: bool) -> tuple[Array, Array]:
        return time_loop(
            _backward_step,
            per_step=[args.d_ys, args.state_jacobian, *args.gate_jacobians],
            weights=[args.w_h_t],
            per_batch=[],
            init=args.d_h_last,
            reverse=reverse,
            dtype=args.d_h_last.dtype,
        )

    return FusedKernels(forward, backward)


def _forward_step(
    h: Array,  # (N, H)
    inputs: list[Array],  # three of (N, H), and flags (N, 1) or nothing
    weight_refs: list[Any],  # (H, 3H) in the matmul dtype, (1, H)
    per_batch_refs: list[Any],  # (N, H)
) -> tuple[Array, Array]:
    x_r, x_z, x_n, *flags = inputs
    w_h, b_hn = weight_refs
    for bits in flags:
        bits = jnp.broadcast_to(bits, h.shape)
        h = jnp.where(bits & interface.RESET != 0, per_batch_refs[0][...], h)
    new = gru_step_reset_after(h, (x_r, x_z, x_n), w_h[...], b_hn[...], _affine)
    for bits in flags:
        bits = jnp.broadcast_to(bits, h.shape)
        new = jnp.where(bits & interface.VALID != 0, new, h)
    return new, new


def _backward_step(
    d: Array,  # (N, H)
    inputs: list[Array],  # five of (N, H), the Jacobians of gates in the matmul dtype
    weight_refs: list[Any],  # (3H, H) in the matmul dtype
    per_batch_refs: list[Any],
) -> tuple[Array, Array]:
    del per_batch_refs
    d_y, state_jacobian, *gate_jacobians = inputs
    d = d + d_y
    d_preactivations = jnp.concatenate(
        [d * jacobian.astype(d.dtype) for jacobian in gate_jacobians], axis=-1
    )
    return d * state_jacobian + _dot(d_preactivations, weight_refs[0][...]), d


def _time_loop_kernel(
    step: Callable[..., tuple[Array, Array]],  # see _forward_step
    *,
    per_step: list[Array],  # (T, B, H or 1) each, the inputs of each step
    weights: list[Array],  # two axes each, fetched once for the whole grid
    per_batch: list[Array],  # (B, H) each, the same at every step
    init: Array,  # (B, H), the carry before the first step
    reverse: bool,  # whether step T - 1 comes first
    dtype: DType,  # of the outputs
    spec: TpuSpec,
    interpret: Any,
) -> tuple[Array, Array]:
    """A kernel that scans over time: the outputs (T, B, H), and the last carry (B, H)."""
    time, batch, _ = per_step[0].shape
    hidden = init.shape[-1]
    tile = choose_tile(time, batch, hidden, weights[0].dtype.itemsize, spec)
    num_blocks = pl.cdiv(time, tile.steps)

    def time_block(index: Any) -> Any:
        return num_blocks - 1 - index if reverse else index

    def kernel(*all_refs: Any) -> None:
        refs = iter(all_refs)
        per_step_refs = [next(refs) for _ in per_step]  # (S, N, H or 1)
        weight_refs = [next(refs) for _ in weights]
        per_batch_refs = [next(refs) for _ in per_batch]  # (N, H)
        init_ref, out_ref, last_ref, carry_ref = refs  # (N, H), (S, N, H), (N, H), (N, H)

        @pl.when(pl.program_id(1) == 0)
        def _() -> None:
            carry_ref[...] = init_ref[...]

        count = tile.steps
        if time % tile.steps:
            count = jnp.minimum(count, time - time_block(pl.program_id(1)) * tile.steps)

        def body(index: Any, carry: Array) -> Array:
            at = count - 1 - index if reverse else index
            inputs = [ref[at] for ref in per_step_refs]
            carry, out = step(carry, inputs, weight_refs, per_batch_refs)
            out_ref[at] = out.astype(dtype)
            return carry

        unroll = unroll_factor(tile, hidden) if isinstance(count, int) else None
        carry_ref[...] = lax.fori_loop(0, count, body, carry_ref[...], unroll=unroll)
        last_ref[...] = carry_ref[...]

    def block(array: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
        if array.ndim == 3:
            shape = (tile.steps, tile.batch, array.shape[-1])
            return pl.BlockSpec(shape, lambda tile, index: (time_block(index), tile, 0))
        return pl.BlockSpec((tile.batch, hidden), lambda tile, index: (tile, 0))

    def whole(array: Array) -> pl.BlockSpec:
        # An array that is fetched once needs no second buffer.
        return pl.BlockSpec(array.shape, lambda tile, index: (0, 0), pipeline_mode=pl.Buffered(1))

    results = (_like(init, (time, batch, hidden), dtype), _like(init, init.shape, init.dtype))
    outputs, last = pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(pl.cdiv(batch, tile.batch), num_blocks),
        in_specs=[*map(block, per_step), *map(whole, weights), *map(block, [*per_batch, init])],
        out_specs=[*map(block, results)],
        scratch_shapes=[pltpu.VMEM((tile.batch, hidden), init.dtype)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=spec.vmem_mib * 2**20
        ),
        interpret=interpret,
    )(*per_step, *weights, *per_batch, init)
    return outputs, last


def _affine(operand: Array, weights: Array, addends: Sequence[Array | None]) -> tuple[Array, ...]:
    """:func:`gru_jax.cells.affine` for a kernel, where biases have two axes."""
    pieces = jnp.split(_dot(operand, weights), len(addends), axis=-1)
    return tuple(
        piece if addend is None else piece + jnp.broadcast_to(addend, piece.shape)
        for piece, addend in zip(pieces, addends, strict=True)
    )


def _dot(operand: Array, weights: Array) -> Array:
    """The matmul in the weights' dtype, exact if that is float32."""
    exact = weights.dtype != jnp.bfloat16
    return lax.dot_general(
        operand.astype(weights.dtype),
        weights,
        (((1,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST if exact else lax.Precision.DEFAULT,
        preferred_element_type=operand.dtype,
    )


def _like(array: Array, shape: tuple[int, ...], dtype: DType) -> jax.ShapeDtypeStruct:
    """The type of a result that varies over the same mesh axes as ``array``."""
    return jax.ShapeDtypeStruct(shape, dtype, **varying_like(array))
