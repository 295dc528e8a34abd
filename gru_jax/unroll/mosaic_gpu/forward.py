"""The way forward: a GRU's states, step by step, with all weights in shared memory."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax.cells.gru import combine_reset_after
from gru_jax.typing import Array, DType
from gru_jax.unroll.kernels import Gates
from gru_jax.unroll.mosaic_gpu.team import SEQUENCES, UNITS, Ref, Team
from gru_jax.unroll.mosaic_gpu.tiles import (
    choose,
    load_carry,
    load_flags,
    load_of_units,
    load_tile,
    store_tile,
)

VALID, RESETS = 1, 2
"""Bits of a step's flags."""


def walk(
    team: Team,
    projected: Gates,
    w_h: Array,
    b_hn: Array,
    start: Array,
    initial: Array,
    flags: Array | None,
    *,
    reverse: bool,
    dtype: DType,
    interpret: object,
) -> tuple[Array, Array]:
    """See :class:`gru_jax.unroll.kernels.Forward`.

    Every step each member sends its units' state to all, and computes its units' gates.

    Args:
        team: who walks a tile of the batch.
        projected, w_h, b_hn, start, initial, reverse, dtype: as there; B is a multiple of 16.
        flags: (T, B), int32, the bits of each step; None where all steps are valid and none resets.
        interpret: as for ``plgpu.kernel``.
    """
    time, batch, hidden = projected[0].shape
    members, operands = team.members, w_h.dtype

    def kernel(x_r: Ref, x_z: Ref, x_n: Ref, u: Ref, b: Ref, h0: Ref, put_in: Ref, *refs: Ref):
        flags_ref = None if flags is None else refs[0]
        states, last, u_memory, mailbox, fetch_barrier, mail_barriers, *farewell = refs[
            0 if flags is None else 1 :
        ]
        team.fetch(u, u_memory, fetch_barrier)
        bias = load_of_units(b)
        initial = None if flags_ref is None else load_tile(put_in)

        def index(count: Array | int) -> Array:
            count = jnp.minimum(count, time - 1)
            return time - 1 - count if reverse else count

        def read_flags(count: Array | int) -> Array | None:
            return None if flags_ref is None else load_flags(flags_ref, index(count))

        def step(count: Array, carry: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
            h, bits = carry
            slot, t = lax.rem(count, 2), index(count)
            if bits is not None and initial is not None:
                h = choose(bits & RESETS, initial, h)
            # Read a step ahead: what a step begins with must not wait for memory.
            following = read_flags(count + 1)
            # These are on their way while the members send.
            x = load_tile(x_r, t), load_tile(x_z, t), load_tile(x_n, t)

            def affine(
                operand: Array, weights: Ref, addends: Sequence[Array | None]
            ) -> tuple[Array, ...]:
                letter = operand.astype(operands)
                for to in range(members):
                    team.send(letter, mailbox, mail_barriers, slot, lax.axis_index("member"), to)
                team.receive(mail_barriers, slot)
                sums = _products(weights, team.mine(mailbox).at[slot], members)
                return tuple(
                    total if addend is None else total + addend
                    for total, addend in zip(sums, addends, strict=True)
                )

            new = combine_reset_after(h, x, team.mine(u_memory), bias, affine)
            h = new if bits is None else choose(bits & VALID, new, h)
            store_tile(states, h, t)
            return h, following

        h, _ = lax.fori_loop(0, time, step, (load_carry(h0), read_flags(0)))
        store_tile(last, h)
        team.part(farewell)

    run = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct((time, batch, hidden), dtype),
            jax.ShapeDtypeStruct((batch, hidden), jnp.float32),
        ),
        scratch_types=[
            team.memory((3, UNITS, hidden), operands),
            team.mailbox(members, operands),
            team.fetch_barrier(3),
            team.mail_barriers(members),
            *team.farewell_barrier(),
        ],
        grid=(batch // SEQUENCES,),
        grid_names=("tile",),
        kernel_name="gru_forward",
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup, reduction_scratch_bytes=0
        ),
        interpret=interpret,
        **team.mesh,
    )
    # To each member U^T for its units of every gate, (members, 3, 64, H).
    cut = w_h.reshape(hidden, 3, members, UNITS).transpose(2, 1, 3, 0)
    return run(*projected, cut, b_hn, start, initial, *([] if flags is None else [flags]))


def _products(weights: Ref, letters: Ref, members: int) -> tuple[Array, ...]:
    """``U^T h`` for each gate: (3, units, H) by (members, units, sequences)."""

    def accumulate(*sums: Ref) -> tuple[Array, ...]:
        # A loop, and not all members one after the other: the compiler would keep an address of
        # every piece in registers, of which there are not as many.
        @pl.loop(0, members)
        def _(member: Array) -> None:
            units = pl.ds(pl.multiple_of(member * UNITS, UNITS), UNITS)
            for gate, total in enumerate(sums):
                plgpu.wgmma(total, weights.at[gate, :, units], letters.at[member])

        return tuple(total[...] for total in sums)

    tile = plgpu.WGMMAAccumulatorRef((UNITS, SEQUENCES), jnp.float32)
    return pl.run_scoped(accumulate, tile, tile, tile)
