"""The way back: the recurrence of the states' cotangents, with all weights in shared memory."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax.typing import Array, DType
from gru_jax.unroll.kernels import Gates
from gru_jax.unroll.mosaic_gpu.team import SEQUENCES, UNITS, Ref, Team
from gru_jax.unroll.mosaic_gpu.tiles import WGMMA, load, load_carry, load_tile, store_tile


def walk(
    team: Team,
    d_states: Array,
    through: Array,
    slopes: Gates,
    u_transposed: Array,
    d_last: Array,
    *,
    reverse: bool,
    letters: DType,
    interpret: object,
) -> tuple[Array, Array]:
    """See :class:`gru_jax.unroll.kernels.Backward`.

    Every step each member multiplies the cotangents of its units' sums by U^T, which gives a
    share of every unit's cotangent, and sends each member its share. The other way round, with
    the cotangents sent to all, there would be three times as much to send, and too much to keep.

    Args:
        team: who walks a tile of the batch.
        d_states, through, slopes, u_transposed, d_last, reverse: as there; B is a multiple of 16.
        letters: the dtype in which shares are sent.
        interpret: as for ``plgpu.kernel``.
    """
    time, batch, hidden = d_states.shape
    members = team.members
    operands = u_transposed.dtype

    def kernel(*refs: Ref) -> None:
        *per_step, u, d_last_ref, d_ref, d_start = refs[:9]
        u_memory, d_sums, mailbox, fetch_barrier, mail_barriers, *farewell = refs[9:]
        team.fetch(u, u_memory, fetch_barrier)
        weights, d_sums, received = map(team.mine, (u_memory, d_sums, mailbox))
        member = lax.axis_index("member")

        def index(count: Array | int) -> Array:
            count = jnp.minimum(count, time - 1)
            return time - 1 - count if reverse else count

        def read(count: Array | int) -> list[Array]:
            return [load_tile(ref, index(count)) for ref in per_step]

        def step(count: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
            d, (d_state, through, *slopes) = carry
            slot = lax.rem(count, 2)
            d = d + d_state
            for gate, slope in enumerate(slopes):
                d_sums[pl.ds(gate * UNITS, UNITS)] = (d * slope).astype(operands)
            # Products read what was just stored, and by another path.
            plgpu.commit_smem()
            store_tile(d_ref, d, index(count))
            # Read a step ahead: what a step begins with must not wait for memory.
            following = read(count + 1)

            @pl.loop(1, members)
            def _(distance: Array) -> None:
                # Each begins with another receiver, so that nobody gets all at once.
                to = lax.rem(member + distance, members)
                share = _product(weights.at[distance], d_sums).astype(letters)
                team.send(share, mailbox, mail_barriers, slot, distance - 1, to)

            total = d * through + _product(weights.at[0], d_sums)
            team.receive(mail_barriers, slot)
            for place in range(members - 1):
                total += load(received.at[slot, place], WGMMA).astype(jnp.float32)
            return total, following

        d, _ = lax.fori_loop(0, time, step, (load_carry(d_last_ref), read(0)))
        store_tile(d_start, d)
        team.part(farewell)

    run = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct((time, batch, hidden), jnp.float32),
            jax.ShapeDtypeStruct((batch, hidden), jnp.float32),
        ),
        scratch_types=[
            team.memory((members, UNITS, 3 * UNITS), operands),
            team.memory((3 * UNITS, SEQUENCES), operands),
            team.mailbox(members - 1, letters),
            team.fetch_barrier(members),
            team.mail_barriers(members - 1),
            *team.farewell_barrier(),
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
    """To each member U for its units of every gate, by receivers, itself first.

    (members, receivers, 64, 3 * 64): of a receiver's units and of the member's units' gates.
    """
    u = u_transposed.T.reshape(members, UNITS, 3, members, UNITS).transpose(3, 0, 1, 2, 4)
    u = u.reshape(members, members, UNITS, 3 * UNITS)
    sender = np.arange(members)[:, None]
    return u[sender, (sender + np.arange(members)) % members]


def _product(weights: Ref, operand: Ref) -> Array:
    """(units, 3 * units) by (3 * units, sequences)."""

    def accumulate(total: Ref) -> Array:
        plgpu.wgmma(total, weights, operand)
        return total[...]

    return pl.run_scoped(accumulate, plgpu.WGMMAAccumulatorRef((UNITS, SEQUENCES), jnp.float32))
