"""Forward kernel: a GRU's states step by step, with all weights in shared memory.

Notation:
    T, B, H: time steps, sequences, hidden units; B is a multiple of N.
    U: the recurrent weights (H, 3H).
    C: CTAs of a cluster, H / M.
    M: hidden units of a CTA, 64, the rows of its matmuls.
    N: sequences of a batch tile, 16, the columns; the grid has B / N clusters.
Register tiles are (M, N). In each step a CTA sends its units' state to the other CTAs and computes
its units' gates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem, tiles
from gru_jax._unroll.fused.hopper.cluster import (
    TILE_BATCH,
    UNITS_PER_CTA,
    Cluster,
    by_rank_offset,
    load_weights,
)
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax._unroll.fused.interface import RESET, VALID, ForwardArgs, pack_flags
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType


def launch_forward(
    args: ForwardArgs, *, reverse: bool, dtype: DType, interpret: object
) -> tuple[Array, Array]:
    """See :class:`~gru_jax._unroll.fused.interface.ForwardKernel`.

    Args:
        args, reverse, dtype: as there; B is a multiple of 16, H of 64.
        interpret: as for ``plgpu.kernel``.
    """
    time, batch, hidden = args.projected[0].shape
    cluster = Cluster(hidden // UNITS_PER_CTA)
    num_ctas, matmul_dtype = cluster.num_ctas, args.w_h.dtype
    flags = pack_flags(args.valid, args.resets)

    def kernel(
        x_r: Ref,  # (T, B, H)
        x_z: Ref,  # (T, B, H)
        x_n: Ref,  # (T, B, H)
        weights: Ref,  # (C, 3, M, H), matmul dtype
        b_hn: Ref,  # (H,)
        h0: Ref,  # (B, H)
        reset_state_ref: Ref,  # (B, H)
        *refs: Ref,
    ) -> None:
        flags_ref = None if flags is None else refs[0]  # (T, B), int32
        (
            states,  # (T, B, H)
            h_last,  # (B, H)
            w_smem,  # (3, M, H), matmul dtype
            recv_smem,  # (2, C, N, M), matmul dtype
            weights_barrier,
            mbarriers,
            exit_barrier,
        ) = refs[0 if flags is None else 1 :]
        dsmem.init_mbarriers(mbarriers)
        load_weights(weights, w_smem, weights_barrier)
        bias = tiles.load_bias(b_hn)
        reset_state = None
        if flags_ref is not None:
            reset_state = tiles.relayout(tiles.load_tile(reset_state_ref), tiles.WGMMA)

        def time_index(step: Array | int) -> Array:
            step = jnp.clip(step, 0, time - 1)
            return time - 1 - step if reverse else step

        def load_inputs(step: Array | int) -> tuple[list[Array], Array | None]:
            for ref in (x_r, x_z, x_n):
                tiles.prefetch_tile(ref, time_index(step + tiles.PREFETCH_DISTANCE))
            bits = None if flags_ref is None else tiles.load_flags(flags_ref, time_index(step))
            return [tiles.load_tile(ref, time_index(step)) for ref in (x_r, x_z, x_n)], bits

        def body(step: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            h_previous, (projected, bits) = carry
            h = h_previous
            if bits is not None and reset_state is not None:
                h = tiles.select_per_sequence(bits & RESET, reset_state, h)
            message = tiles.relayout(h, tiles.WGMMA_TRANSPOSED).astype(matmul_dtype)
            operands = recv_smem.at[lax.rem(step, 2)]
            for rank_offset in range(1, num_ctas):
                slot_ref = operands.at[num_ctas - rank_offset]
                cluster.send(message, slot_ref, mbarriers, step, rank_offset)
            # Overlap independent work with the remote stores. A commit_smem is a fence
            # (MEMBAR.ALL.CTA in SASS) that waits for global loads and stores in flight. Issued
            # after this one, they have until the next, while the messages arrive.
            operands.at[0].transpose((1, 0))[...] = message
            plgpu.commit_smem()
            p_r, p_z, p_n = (tiles.relayout(tile, tiles.WGMMA) for tile in projected)
            h_previous = tiles.relayout(h_previous, tiles.WGMMA_TRANSPOSED)
            tiles.store_tile(states, h_previous, time_index(step - 1))
            next_inputs = load_inputs(step + 1)

            def receive() -> None:
                cluster.receive(mbarriers, step, message)
                plgpu.commit_smem()

            preactivations = _matmul(w_smem, operands, receive)

            def affine(
                operand: Array, weights: Ref, addends: Sequence[Array | None]
            ) -> tuple[Array, ...]:
                del operand, weights  # Their matmuls are the preactivations above.
                return tuple(
                    total if addend is None else total + addend
                    for total, addend in zip(preactivations, addends, strict=True)
                )

            new = gru_step_reset_after(h, (p_r, p_z, p_n), w_smem, bias, affine)
            if bits is not None:
                new = tiles.select_per_sequence(bits & VALID, new, h)
            return new, next_inputs

        init = tiles.relayout(tiles.load_carry(h0), tiles.WGMMA), load_inputs(0)
        h, _ = lax.fori_loop(0, time, body, init)
        h = tiles.relayout(h, tiles.WGMMA_TRANSPOSED)
        tiles.store_tile(states, h, time_index(time - 1))
        tiles.store_tile(h_last, h)
        cluster.exit_sync(exit_barrier)

    run = cluster.kernel(
        kernel,
        name="gru_forward",
        shape=(time, batch, hidden),
        dtype=dtype,
        scratch_types=[
            cluster.smem((3, UNITS_PER_CTA, hidden), matmul_dtype),
            cluster.smem((2, num_ctas, TILE_BATCH, UNITS_PER_CTA), matmul_dtype),
            plgpu.Barrier(num_arrivals=3),
            dsmem.mbarrier_scratch(num_ctas - 1),
            cluster.exit_barrier(),
        ],
        interpret=interpret,
    )
    weights = _partition_weights(args.w_h, num_ctas)
    inputs = (*args.projected, weights, args.b_hn, args.h0, args.reset_state)
    return run(*inputs, *([] if flags is None else [flags]))


def _partition_weights(w_h: Array, num_ctas: int) -> Array:
    """U^T of each CTA's units (C, 3, M, H), from U (H, 3H); columns are in rank-offset order."""
    sender_second = w_h.reshape(num_ctas, UNITS_PER_CTA, 3, num_ctas, UNITS_PER_CTA).transpose(
        3, 0, 2, 4, 1
    )
    partitioned = by_rank_offset(sender_second).transpose(0, 2, 3, 1, 4)
    return partitioned.reshape(num_ctas, 3, UNITS_PER_CTA, -1)


def _matmul(weights: Ref, operands: Ref, receive: Callable[[], None]) -> tuple[Array, ...]:
    """``U^T h`` (M, N) for each gate.

    Args:
        weights: (3, M, H).
        operands: (C, N, M), the state of every CTA's units in rank-offset order.
        receive: waits for all operands but the CTA's own, which is there already.
    """
    num_ctas, _, _ = operands.shape

    def accumulate(*accumulators: Ref) -> tuple[Array, ...]:
        def add(rank_offset: Array | int, column: Array | int) -> None:
            operand = operands.at[rank_offset].transpose((1, 0))
            for gate, accumulator in enumerate(accumulators):
                plgpu.wgmma(accumulator, weights.at[gate, :, pl.ds(column, UNITS_PER_CTA)], operand)

        add(0, 0)
        receive()

        # Unrolled, the compiler would keep an address for each part of the weights in registers,
        # and run out of them.
        @pl.loop(1, num_ctas)
        def _(rank_offset: Array) -> None:
            add(rank_offset, pl.multiple_of(rank_offset * UNITS_PER_CTA, UNITS_PER_CTA))

        return tuple(accumulator[...] for accumulator in accumulators)

    tile = plgpu.WGMMAAccumulatorRef((UNITS_PER_CTA, TILE_BATCH), jnp.float32)
    return pl.run_scoped(accumulate, tile, tile, tile)
