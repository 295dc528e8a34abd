"""Backward kernel: the cotangents of preactivations, by one block for each tile of sequences.

Notation:
    C, T, B, H: copies, time steps, sequences, hidden units; H is 64, 128 or 192.
    M, N: units of a warpgroup and sequences of a batch tile, see
        :mod:`~gru_jax._unroll.fused.one_block.tiles`.
A warpgroup holds the rows of U of its units, (M, 3H), in registers. In each step it stores the
cotangents of its units' preactivations in shared memory and reads those of all units.
"""
# pyright: reportAttributeAccessIssue=false
# jax 0.10 lacks what these kernels need of Pallas.

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.interface import RESET, VALID
from gru_jax._unroll.fused.one_block import tiles
from gru_jax._unroll.fused.one_block.interface import BackwardArgs, BackwardResult, matmul_dtype
from gru_jax._unroll.fused.one_block.launch import by_tile, launch, tile_slice
from gru_jax._unroll.fused.one_block.tiles import ACCUMULATOR, Ref
from gru_jax.typing import Array


def launch_backward(
    args: BackwardArgs, exponent: Array, *, tile: int, interpret: Any
) -> BackwardResult:
    """See :class:`~gru_jax._unroll.fused.one_block.interface.BackwardResult`.

    Args:
        args: H is 64, 128 or 192, B at least N.
        exponent: (C, B), int32, between -126 and 126. Within the kernel a sequence's cotangents are
            multiplied by this power of two, so that they fit the matmul dtype.
        tile: N.
        interpret: as for ``plgpu.kernel``.
    """
    copies, time, batch, hidden = args.d_ys.shape
    operand_dtype = matmul_dtype(args.w_h.dtype)
    has_flags = args.flags is not None

    def kernel(
        d_ys: Ref,  # (C, T, B, H)
        states_before: Ref,  # (C, T, B, H)
        preactivations: Ref,  # (C, T, B, 4H)
        weights: Ref,  # (C, H, 3H), matmul dtype
        d_h_last: Ref,  # (C, B, H)
        scales: Ref,  # (C, 2, tiles, N): the powers of two and their inverses
        reverse: Ref,  # (C,)
        *refs: Ref,
    ) -> None:
        rest = iter(refs)
        flags_ref = next(rest) if has_flags else None  # (C, T, tiles, N)
        d_preactivations = next(rest)  # (C, T, B, 4H)
        d_h0 = next(rest)  # (C, B, H)
        d_reset_ref = next(rest) if has_flags else None  # (C, B, H)
        operands = next(rest)  # (2, N, 3H), matmul dtype
        shared = [next(rest)] if hidden > tiles.MAX_IN_REGISTERS else []
        barrier = next(rest)

        copy, sequences, units = lax.axis_index("copy"), tile_slice(batch, tile), tiles.own_units()
        gates = [weights.at[copy, units, pl.ds(gate * hidden, hidden)] for gate in range(3)]
        u = tiles.load_weights(gates, shared)
        scale, unscale = (
            tiles.load_sequences(scales.at[copy, which, lax.axis_index("tile")])
            for which in range(2)
        )
        time_index = tiles.time_index(1 - reverse[copy], time)

        def load_inputs(step: Array | int) -> list[Array]:
            now = (copy, time_index(step), sequences)
            saved = preactivations.at[now]
            return [
                *(tiles.load_tile(ref.at[*now, units]) for ref in (d_ys, states_before)),
                *(tiles.load_tile(saved.at[:, tiles.own_units(part, hidden)]) for part in range(4)),
            ]

        def body(step: Array, carried: tuple[Array, Array | None, list[Array]]) -> Any:
            d, d_reset, inputs = carried
            now = time_index(step)
            d_y, h, a_r, a_z, a_n, h_n = (
                tiles.relayout(tile, ACCUMULATOR).astype(jnp.float32) for tile in inputs
            )
            r, z, n = tiles.sigmoid(a_r), tiles.sigmoid(a_z), tiles.tanh(a_n)
            d_new = d + d_y * scale
            bits = None
            if flags_ref is not None:
                bits = tiles.load_sequences(flags_ref.at[copy, now, lax.axis_index("tile")])
                d_new = jnp.where(bits & VALID != 0, d_new, jnp.zeros_like(d))
            d_a_n = d_new * (1 - z) * (1 - n * n)
            d_a_z = d_new * (h - n) * z * (1 - z)
            d_a_r = d_a_n * h_n * r * (1 - r)
            d_h_n, d_past = d_a_n * r, d_new * z
            if bits is not None:
                d_past = jnp.where(bits & VALID != 0, d_past, d)
            operand = operands.at[lax.rem(step, 2)]
            for gate, each in enumerate((d_a_r, d_a_z, d_h_n)):
                message = tiles.relayout(each, tiles.MEMORY).astype(operand_dtype)
                columns = tiles.own_units(gate, hidden)
                operand.at[:, columns].transpose((1, 0))[...] = message
            following = load_inputs(step + 1)
            tiles.sync_block(barrier)
            rows = d_preactivations.at[copy, now, sequences]
            for part, each in enumerate((d_a_r, d_a_z, d_a_n, d_h_n)):
                tiles.store_tile(rows.at[:, tiles.own_units(part, hidden)], each * unscale)
            # A chain of matmuls for each gate: one waits for the sum of the one before.
            sums = [d_past, jnp.zeros_like(d), jnp.zeros_like(d)]
            for index in range(hidden // tiles.CHUNK):
                for gate in range(3):
                    chunk = pl.ds(gate * hidden + index * tiles.CHUNK, tiles.CHUNK)
                    operand_chunk = tiles.load_operand(operand.at[:, chunk])
                    sums[gate] = plgpu.mma(sums[gate], u[gate][index](), operand_chunk)
            d = sum(sums)
            if bits is not None and d_reset is not None:
                resets, none = bits & RESET != 0, jnp.zeros_like(d)
                d_reset += jnp.where(resets, d, none)
                d = jnp.where(resets, none, d)
            return d, d_reset, following

        first = tiles.load_tile(d_h_last.at[copy, sequences, units], ACCUMULATOR) * scale
        d_reset = first * 0 if has_flags else None
        d, d_reset, _ = lax.fori_loop(0, time, body, (first, d_reset, load_inputs(0)))
        tiles.store_tile(d_h0.at[copy, sequences, units], d * unscale)
        if d_reset_ref is not None and d_reset is not None:
            tiles.store_tile(d_reset_ref.at[copy, sequences, units], d_reset * unscale)

    state = jax.ShapeDtypeStruct((copies, batch, hidden), jnp.float32)
    results = [
        jax.ShapeDtypeStruct((copies, time, batch, 4 * hidden), args.d_ys.dtype),
        *[state] * (2 if has_flags else 1),
    ]
    scales = by_tile(_power_of_two(jnp.stack([exponent, -exponent], 1)), tile)
    inputs = [*args[:3], args.w_h.astype(operand_dtype), args.d_h_last, scales]
    inputs.append(args.reverse)
    if args.flags is not None:
        inputs.append(by_tile(args.flags, tile))
    d_preactivations, d_h0, *d_reset = launch(
        kernel,
        inputs,
        results,
        grid=(copies, -(-batch // tile)),
        hidden=hidden,
        name="gru_one_block_backward",
        scratch_types=[
            tiles.operand_scratch(tile, 3 * hidden, operand_dtype),
            *tiles.shared_weights(hidden, operand_dtype),
            plgpu.Barrier(num_arrivals=hidden // tiles.UNITS),
        ],
        interpret=interpret,
    )
    return BackwardResult(d_preactivations, d_h0, d_reset[0] if has_flags else None)


def _power_of_two(exponent: Array) -> Array:
    """Exactly 2 to the power of an int32, which an exponential function need not return."""
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)
