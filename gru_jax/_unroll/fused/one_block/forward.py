"""Forward kernel: a GRU's states step by step, by one block for each tile of sequences.

Notation:
    C, T, B, H: copies, time steps, sequences, hidden units; H is 64, 128 or 192.
    M, N: units of a warpgroup and sequences of a batch tile, see
        :mod:`~gru_jax._unroll.fused.one_block.tiles`.
    L: steps whose inputs are being loaded.
A warpgroup holds U^T of its units, (M, H) for each gate, in registers. In each step it stores its
units' state in shared memory and reads the state of all units.
"""
# pyright: reportAttributeAccessIssue=false
# jax 0.10 lacks what these kernels need of Pallas.

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.interface import RESET, VALID
from gru_jax._unroll.fused.one_block import tiles
from gru_jax._unroll.fused.one_block.interface import (
    RESIDUAL_DTYPE,
    ForwardArgs,
    ForwardResult,
    matmul_dtype,
)
from gru_jax._unroll.fused.one_block.launch import by_tile, launch, tile_slice
from gru_jax._unroll.fused.one_block.tiles import ACCUMULATOR, Ref
from gru_jax.typing import Array, DType


def _steps_in_flight(hidden: int, tile: int) -> int:
    """L: as many as registers permit. One step is shorter than a load from global memory."""
    return 2 if tile == 8 and hidden <= tiles.MAX_IN_REGISTERS else 1


def launch_forward(
    args: ForwardArgs,
    *,
    dtype: DType,
    save: bool,
    tile: int,
    interpret: Any,
) -> ForwardResult:
    """See :class:`~gru_jax._unroll.fused.one_block.interface.ForwardResult`.

    Args:
        args: H is 64, 128 or 192, B at least N.
        dtype: of the states.
        save: whether to return the preactivations.
        tile: N.
        interpret: as for ``plgpu.kernel``.
    """
    copies, time, batch, _ = args.projected.shape
    hidden = args.h0.shape[-1]
    operand_dtype = matmul_dtype(args.w_h.dtype)
    has_flags = args.flags is not None
    steps_in_flight = _steps_in_flight(hidden, tile)

    def kernel(
        projected: Ref,  # (C, T, B, 3H)
        weights: Ref,  # (C, 3, H, H): U^T of each gate, matmul dtype
        b_hn: Ref,  # (C, H)
        h0: Ref,  # (C, B, H)
        reset_state_ref: Ref,  # (C, H)
        reverse: Ref,  # (C,)
        *refs: Ref,
    ) -> None:
        rest = iter(refs)
        flags_ref = next(rest) if has_flags else None  # (C, T, tiles, N)
        states = next(rest)  # (C, T, B, H)
        h_last = next(rest)  # (C, B, H)
        preactivations = next(rest) if save else None  # (C, T, B, 4H)
        operands = next(rest)  # (2, N, H), matmul dtype
        shared = [next(rest)] if hidden > tiles.MAX_IN_REGISTERS else []
        barrier = next(rest)

        copy, sequences, units = lax.axis_index("copy"), tile_slice(batch, tile), tiles.own_units()
        gates = [weights.at[copy, gate, units] for gate in range(3)]
        u = tiles.load_weights(gates, shared)
        bias = tiles.load_units(b_hn.at[copy], tile)
        reset_state = tiles.load_units(reset_state_ref.at[copy], tile) if has_flags else None

        time_index = tiles.time_index(reverse[copy], time)

        def load_inputs(step: Array | int) -> list[Array]:
            now = projected.at[copy, time_index(step), sequences]
            return [tiles.load_tile(now.at[:, tiles.own_units(gate, hidden)]) for gate in range(3)]

        def body(step: Array, carried: tuple[Array, list[list[Array]]]) -> Any:
            h, (inputs, *in_flight) = carried
            now = time_index(step)
            bits = None
            if flags_ref is not None and reset_state is not None:
                bits = tiles.load_sequences(flags_ref.at[copy, now, lax.axis_index("tile")])
                h = jnp.where(bits & RESET != 0, reset_state, h)
            operand = operands.at[lax.rem(step, 2)]
            message = tiles.relayout(h, tiles.MEMORY).astype(operand_dtype)
            operand.at[:, units].transpose((1, 0))[...] = message
            in_flight.append(load_inputs(step + steps_in_flight))
            tiles.sync_block(barrier)
            x_r, x_z, x_n = (tiles.relayout(tile, ACCUMULATOR) for tile in inputs)
            sums = [x_r, x_z, bias]
            for index, chunk in enumerate(tiles.chunks(hidden)):
                h_chunk = tiles.load_operand(operand.at[:, chunk])
                sums = [
                    plgpu.mma(total, gate[index](), h_chunk)
                    for total, gate in zip(sums, u, strict=True)
                ]
            a_r, a_z, h_n = sums
            a_n = x_n + tiles.sigmoid(a_r) * h_n
            if preactivations is not None:
                # 0 * inf is NaN in the backward kernel; the others are operands of sigmoid, tanh.
                largest = float(jnp.finfo(RESIDUAL_DTYPE).max)
                h_n = jnp.clip(h_n, -largest, largest)
                rows = preactivations.at[copy, now, sequences]
                for part, value in enumerate((a_r, a_z, a_n, h_n)):
                    tiles.store_tile(rows.at[:, tiles.own_units(part, hidden)], value)
            z, n = tiles.sigmoid(a_z), tiles.tanh(a_n)
            new = z * h + (1 - z) * n
            if bits is not None:
                new = jnp.where(bits & VALID != 0, new, h)
            tiles.store_tile(states.at[copy, now, sequences, units], new)
            return new, in_flight

        first = tiles.carry(tiles.load_tile(h0.at[copy, sequences, units], ACCUMULATOR))
        in_flight = [load_inputs(step) for step in range(steps_in_flight)]
        h, _ = lax.fori_loop(0, time, body, (first, in_flight))
        tiles.store_tile(h_last.at[copy, sequences, units], h)

    weights = jnp.moveaxis(args.w_h.reshape(copies, hidden, 3, hidden), 1, -1)
    inputs = [args.projected, weights.astype(operand_dtype), args.b_hn, args.h0]
    inputs += [args.reset_state, args.reverse]
    results = [
        jax.ShapeDtypeStruct((copies, time, batch, hidden), dtype),
        jax.ShapeDtypeStruct((copies, batch, hidden), jnp.float32),
    ]
    if save:
        results.append(jax.ShapeDtypeStruct((copies, time, batch, 4 * hidden), RESIDUAL_DTYPE))
    if args.flags is not None:
        inputs.append(by_tile(args.flags, tile))
    outputs = launch(
        kernel,
        inputs,
        results,
        grid=(copies, -(-batch // tile)),
        hidden=hidden,
        name="gru_one_block_forward",
        scratch_types=[
            tiles.operand_scratch(tile, hidden, operand_dtype),
            *tiles.shared_weights(hidden, operand_dtype),
            plgpu.Barrier(num_arrivals=hidden // tiles.UNITS),
        ],
        interpret=interpret,
    )
    states, h_last, *saved = outputs
    return ForwardResult(states, h_last, saved[0] if save else None)
