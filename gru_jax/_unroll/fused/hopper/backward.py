"""Backward kernel: the recurrence of the states' cotangents, with all weights on the chip.

``README.md`` has the notation and the order of a step. Register tiles are (M, N).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem, tiles
from gru_jax._unroll.fused.hopper.cluster import TILE_BATCH, UNITS_PER_CTA, Cluster
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax._unroll.fused.interface import BackwardArgs
from gru_jax.typing import Array


def launch_backward(args: BackwardArgs, *, reverse: bool, interpret: object) -> tuple[Array, Array]:
    """The backward kernel of :class:`~gru_jax._unroll.fused.interface.FusedKernels`.

    B is a multiple of 16, H of 64; ``interpret`` is as for ``plgpu.kernel``.
    """
    time, batch, hidden = args.d_ys.shape
    cluster = Cluster(hidden // UNITS_PER_CTA)
    num_ctas, matmul_dtype = cluster.num_ctas, args.w_h_t.dtype

    def kernel(*refs: Ref) -> None:
        (
            *per_step,  # five of (T, B, H): d_ys, the Jacobians of the state and of r, z, n
            weights,  # (C, C, M, 3M), matmul dtype
            d_h_last,  # (B, H)
            d_ref,  # (T, B, H)
            d_h0,  # (B, H)
        ) = refs[:9]
        (
            w_smem,  # (C - 1, M, 3M), matmul dtype
            d_preactivations,  # (N, 3M), matmul dtype
            recv_smem,  # (2, C - 1, N, M), matmul dtype
            weights_barrier,
            mbarriers,
            exit_barrier,
        ) = refs[9:]
        dsmem.init_mbarriers(mbarriers)
        cluster.load_weights(weights, w_smem, weights_barrier)
        # The weights of the CTA's own units are in registers: shared memory has no room for them.
        local_weights = tiles.load(weights.at[lax.axis_index("cta"), 0], tiles.WGMMA)

        def time_index(step: Array | int) -> Array:
            step = jnp.minimum(step, time - 1)
            return time - 1 - step if reverse else step

        def load_inputs(step: Array | int) -> list[Array]:
            return [tiles.load_tile(ref, time_index(step)) for ref in per_step]

        def body(step: Array, carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
            d, inputs, next_inputs = carry
            d_y, state_jacobian, *gate_jacobians = (tile.astype(jnp.float32) for tile in inputs)
            d = d + d_y
            for gate, jacobian in enumerate(gate_jacobians):
                units = pl.ds(gate * UNITS_PER_CTA, UNITS_PER_CTA)
                d_preactivation = (d * jacobian).astype(matmul_dtype)
                d_preactivations.at[:, units].transpose((1, 0))[...] = d_preactivation
            # Matmuls read the stored operands through the async proxy.
            plgpu.commit_smem()
            received = recv_smem.at[lax.rem(step, 2)]

            def send(partial_sum: Array, rank_offset: Array | int) -> None:
                slot_ref = received.at[num_ctas - 1 - rank_offset]
                cluster.send(partial_sum, slot_ref, mbarriers, step, rank_offset)

            # commit_smem is a fence that waits for global loads and stores in flight. Issued soon
            # after one, they have nearly a whole step to complete.
            def access_global_memory() -> list[Array]:
                for ref in per_step:
                    tiles.prefetch_tile(ref, time_index(step + tiles.PREFETCH_DISTANCE))
                tiles.store_tile(d_ref, d, time_index(step))
                return load_inputs(step + 2)

            # A partial sum is sent while the next one is computed. Each CTA starts with another
            # receiver, so that no CTA receives all messages at once.
            partial_sum, inputs_in_flight = _matmul(
                w_smem.at[0], d_preactivations, access_global_memory
            )

            def send_then_compute(rank_offset: Array, partial_sum: Array) -> Array:
                send_previous = functools.partial(send, partial_sum, rank_offset)
                next_sum, _ = _matmul(w_smem.at[rank_offset], d_preactivations, send_previous)
                return next_sum.astype(matmul_dtype)

            partial_sum = lax.fori_loop(
                1, num_ctas - 1, send_then_compute, partial_sum.astype(matmul_dtype)
            )
            send(partial_sum, num_ctas - 1)
            local_partial, _ = _matmul(local_weights, d_preactivations, lambda: None)
            total = d * state_jacobian + local_partial
            cluster.receive(mbarriers, step, partial_sum)
            for sender in range(num_ctas - 1):
                message = received.at[sender].transpose((1, 0))
                total += tiles.load(message, tiles.WGMMA_TRANSPOSED).astype(jnp.float32)
            return total, next_inputs, inputs_in_flight

        init = tiles.load_carry(d_h_last), load_inputs(0), load_inputs(1)
        d, _, _ = lax.fori_loop(0, time, body, init)
        tiles.store_tile(d_h0, d)
        cluster.exit_sync(exit_barrier)

    run = cluster.kernel(
        kernel,
        name="gru_backward",
        shape=(time, batch, hidden),
        dtype=jnp.float32,
        scratch_types=[
            cluster.smem((num_ctas - 1, UNITS_PER_CTA, 3 * UNITS_PER_CTA), matmul_dtype),
            cluster.smem((TILE_BATCH, 3 * UNITS_PER_CTA), matmul_dtype),
            cluster.smem((2, num_ctas - 1, TILE_BATCH, UNITS_PER_CTA), matmul_dtype),
            plgpu.Barrier(num_arrivals=num_ctas - 1),
            dsmem.mbarrier_scratch(num_ctas - 1),
            cluster.exit_barrier(),
        ],
        interpret=interpret,
    )
    # U for each receiver's units and each CTA's units, the receiver by its rank offset.
    u = args.w_h_t.T.reshape(num_ctas, UNITS_PER_CTA, 3, num_ctas, UNITS_PER_CTA)
    u = cluster.by_rank_offset(u.transpose(3, 0, 1, 2, 4))
    weights = u.reshape(num_ctas, num_ctas, UNITS_PER_CTA, 3 * UNITS_PER_CTA)
    return run(args.d_ys, args.state_jacobian, *args.gate_jacobians, weights, args.d_h_last)


def _matmul(
    weights: Ref | Array,  # (M, 3M)
    operand: Ref,  # (N, 3M)
    overlapped: Callable[[], Any],
) -> tuple[Array, Any]:
    """The matmul (M, N), and the result of ``overlapped``, which is called while it runs."""

    def accumulate(accumulator: Ref) -> tuple[Array, Any]:
        plgpu.wgmma(accumulator, weights, operand.transpose((1, 0)))
        result = overlapped()
        return tiles.relayout(accumulator[...], tiles.WGMMA_TRANSPOSED), result

    tile = plgpu.WGMMAAccumulatorRef((UNITS_PER_CTA, TILE_BATCH), jnp.float32)
    return pl.run_scoped(accumulate, tile)
