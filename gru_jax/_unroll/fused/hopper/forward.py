"""Forward kernel: a GRU's states step by step, with all weights in shared memory.

``README.md`` has the notation and the order of a step. Register tiles are (M, N).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem, tiles
from gru_jax._unroll.fused.hopper.cluster import TILE_BATCH, UNITS_PER_CTA, Cluster
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax._unroll.fused.interface import RESET, VALID, ForwardArgs, pack_flags
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType


def launch_forward(
    args: ForwardArgs, *, reverse: bool, dtype: DType, interpret: object
) -> tuple[Array, Array]:
    """The forward kernel of :class:`~gru_jax._unroll.fused.interface.FusedKernels`.

    B is a multiple of 16, H of 64; ``interpret`` is as for ``plgpu.kernel``.
    """
    time, batch, hidden = args.projected[0].shape
    cluster = Cluster(hidden // UNITS_PER_CTA)
    num_ctas, matmul_dtype = cluster.num_ctas, args.w_h.dtype
    flags = pack_flags(args.valid, args.resets)

    def kernel(*refs: Ref) -> None:
        (
            *input_refs,  # three of (T, B, H): x W + b of r, z, n
            weights,  # (C, 3, M, H), matmul dtype
            b_hn,  # (H,)
            h0,  # (B, H)
            reset_state_ref,  # (B, H)
        ) = refs[:7]
        flags_ref = None if flags is None else refs[7]  # (T, B), int32
        (
            states,  # (T, B, H)
            h_last,  # (B, H)
            w_smem,  # (3, M, H), matmul dtype
            recv_smem,  # (2, C, N, M), matmul dtype
            weights_barrier,
            mbarriers,
            exit_barrier,
        ) = refs[7 if flags is None else 8 :]
        dsmem.init_mbarriers(mbarriers)
        cluster.load_weights(weights, w_smem, weights_barrier)
        bias = tiles.load_bias(b_hn)
        reset_state = None
        if flags_ref is not None:
            reset_state = tiles.relayout(tiles.load_tile(reset_state_ref), tiles.WGMMA)

        def time_index(step: Array | int) -> Array:
            step = jnp.clip(step, 0, time - 1)
            return time - 1 - step if reverse else step

        def load_inputs(step: Array | int) -> tuple[list[Array], Array | None]:
            for ref in input_refs:
                tiles.prefetch_tile(ref, time_index(step + tiles.PREFETCH_DISTANCE))
            bits = None if flags_ref is None else tiles.load_flags(flags_ref, time_index(step))
            return [tiles.load_tile(ref, time_index(step)) for ref in input_refs], bits

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
    # U^T of each CTA's units (C, 3, M, H), from U (H, 3H); columns are in rank-offset order.
    u = args.w_h.reshape(num_ctas, UNITS_PER_CTA, 3, num_ctas, UNITS_PER_CTA)
    u = cluster.by_rank_offset(u.transpose(3, 0, 2, 4, 1)).transpose(0, 2, 3, 1, 4)
    weights = u.reshape(num_ctas, 3, UNITS_PER_CTA, -1)
    inputs = (*args.projected, weights, args.b_hn, args.h0, args.reset_state)
    return run(*inputs, *([] if flags is None else [flags]))


def _matmul(
    weights: Ref,  # (3, M, H)
    operands: Ref,  # (C, N, M), the state of every CTA's units in rank-offset order
    receive: Callable[[], None],
) -> tuple[Array, ...]:
    """``U^T h`` (M, N) for each gate; ``receive`` waits for the operands of the other CTAs."""
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
