"""The way back: the recurrence of the states' cotangents, with all weights on the chip."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem as mail
from gru_jax._unroll.fused.hopper.cluster import SEQUENCES, UNITS, Team, by_distance, fetch
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax._unroll.fused.hopper.tiles import (
    PREFETCHED,
    WGMMA,
    WGMMA_TRANSPOSED,
    load,
    load_carry,
    load_tile,
    prefetch_tile,
    store_tile,
    turn,
)
from gru_jax._unroll.fused.interface import Gates
from gru_jax.typing import Array


def walk(
    team: Team,
    d_states: Array,
    through: Array,
    slopes: Gates,
    u_transposed: Array,
    d_last: Array,
    *,
    reverse: bool,
    interpret: object,
) -> tuple[Array, Array]:
    """See :class:`gru_jax._unroll.fused.interface.Backward`.

    Every step each member multiplies the cotangents of its units' sums by U^T, which gives a
    share of every unit's cotangent, and sends each member its share. The other way round, with
    the cotangents sent to all, there would be three times as much to send, and too much to keep.

    Args:
        team: who walks a tile of the batch.
        d_states, through, slopes, u_transposed, d_last, reverse: as there; B is a multiple of 16.
        interpret: as for ``plgpu.kernel``.
    """
    time, batch, hidden = d_states.shape
    members = team.members
    operands = u_transposed.dtype

    def kernel(*refs: Ref) -> None:
        *per_step, u, d_last_ref, d_ref, d_start = refs[:9]
        weights, d_sums, mailbox, fetch_barrier, mail_barriers, farewell_barrier = refs[9:]
        mail.open_barriers(mail_barriers)
        fetch(u, weights, fetch_barrier)
        # These in registers: for all of them shared memory would not do.
        own_weights = load(u.at[lax.axis_index("member"), 0], WGMMA)

        def index(count: Array | int) -> Array:
            count = jnp.minimum(count, time - 1)
            return time - 1 - count if reverse else count

        def read(count: Array | int) -> list[Array]:
            return [load_tile(ref, index(count)) for ref in per_step]

        def step(count: Array, carry: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
            d, tiles, following = carry
            d_state, through, *slopes = (tile.astype(jnp.float32) for tile in tiles)
            d = d + d_state
            for gate, slope in enumerate(slopes):
                units = pl.ds(gate * UNITS, UNITS)
                d_sums.at[:, units].transpose((1, 0))[...] = (d * slope).astype(operands)
            # Products read what was just stored, and by another path.
            plgpu.commit_smem()
            received = mailbox.at[lax.rem(count, 2)]

            def send(share: Array, distance: Array | int) -> None:
                place = received.at[members - 1 - distance]
                team.send(share, place, mail_barriers, count, distance)

            # A commit is a fence, ahead of which what was begun has to be done: what is begun soon
            # after one has nearly a step for that.
            def meanwhile() -> list[Array]:
                for ref in per_step:
                    prefetch_tile(ref, index(count + PREFETCHED))
                store_tile(d_ref, d, index(count))
                return read(count + 2)

            # A share is sent while the next is computed. Each begins with another receiver, so that
            # nobody gets all at once.
            share, later = _product(weights.at[0], d_sums, meanwhile)

            def pass_on(distance: Array, share: Array) -> Array:
                send_it = functools.partial(send, share, distance)
                return _product(weights.at[distance], d_sums, send_it)[0].astype(operands)

            share = lax.fori_loop(1, members - 1, pass_on, share.astype(operands))
            send(share, members - 1)
            own, _ = _product(own_weights, d_sums, lambda: None)
            total = d * through + own
            team.receive(mail_barriers, count, share)
            for place in range(members - 1):
                letter = received.at[place].transpose((1, 0))
                total += load(letter, WGMMA_TRANSPOSED).astype(jnp.float32)
            return total, following, later

        d, _, _ = lax.fori_loop(0, time, step, (load_carry(d_last_ref), read(0), read(1)))
        store_tile(d_start, d)
        team.part(farewell_barrier)

    run = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct((time, batch, hidden), jnp.float32),
            jax.ShapeDtypeStruct((batch, hidden), jnp.float32),
        ),
        scratch_types=[
            team.memory((members - 1, UNITS, 3 * UNITS), operands),
            team.memory((SEQUENCES, 3 * UNITS), operands),
            team.memory((2, members - 1, SEQUENCES, UNITS), operands),
            plgpu.Barrier(num_arrivals=members - 1),
            mail.barriers(members - 1),
            team.farewell_barrier(),
        ],
        grid=(batch // SEQUENCES,),
        grid_names=("tile",),
        kernel_name="gru_backward",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup, reduction_scratch_bytes=0
        ),
        interpret=interpret,
        **team.mesh,
    )
    cut = _cut_weights(u_transposed, members)
    return run(d_states, through, *slopes, cut, d_last)


def _cut_weights(u_transposed: Array, members: int) -> Array:
    """To each member U for its units of every gate and each receiver's units.

    (members, receivers, 64, 3 * 64).
    """
    u = u_transposed.T.reshape(members, UNITS, 3, members, UNITS).transpose(3, 0, 1, 2, 4)
    return by_distance(u).reshape(members, members, UNITS, 3 * UNITS)


def _product(weights: Ref | Array, operand: Ref, meanwhile: Callable[[], Any]) -> tuple[Array, Any]:
    """(units, 3 * units) by (3 * units, sequences), and what ``meanwhile`` returns.

    It is called while the product is computed.
    """

    def accumulate(total: Ref) -> tuple[Array, Any]:
        plgpu.wgmma(total, weights, operand.transpose((1, 0)))
        done = meanwhile()
        return turn(total[...], WGMMA_TRANSPOSED), done

    return pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((UNITS, SEQUENCES), jnp.float32))
