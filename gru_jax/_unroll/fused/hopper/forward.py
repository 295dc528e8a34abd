"""The way forward: a GRU's states, step by step, with all weights in shared memory."""

from collections.abc import Callable, Sequence
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
    choose,
    load_carry,
    load_flags,
    load_of_units,
    load_tile,
    prefetch_tile,
    store_tile,
    turn,
)
from gru_jax._unroll.fused.interface import Gates
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType

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
    """See :class:`gru_jax._unroll.fused.interface.Forward`.

    Every step each member sends its units' state to the others, and computes its units' gates.

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
        states, last, u_memory, mailbox, fetch_barrier, mail_barriers, farewell_barrier = refs[
            0 if flags is None else 1 :
        ]
        mail.open_barriers(mail_barriers)
        fetch(u, u_memory, fetch_barrier)
        bias = load_of_units(b)
        initial = None if flags_ref is None else turn(load_tile(put_in), WGMMA)

        def index(count: Array | int) -> Array:
            count = jnp.clip(count, 0, time - 1)
            return time - 1 - count if reverse else count

        def read(count: Array | int) -> tuple[list[Array], Array | None]:
            for ref in (x_r, x_z, x_n):
                prefetch_tile(ref, index(count + PREFETCHED))
            bits = None if flags_ref is None else load_flags(flags_ref, index(count))
            return [load_tile(ref, index(count)) for ref in (x_r, x_z, x_n)], bits

        def step(count: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
            before, (x, bits) = carry
            h = before
            if bits is not None and initial is not None:
                h = choose(bits & RESETS, initial, h)
            letter = turn(h, WGMMA_TRANSPOSED).astype(operands)
            letters = mailbox.at[lax.rem(count, 2)]
            for distance in range(1, members):
                team.send(letter, letters.at[members - distance], mail_barriers, count, distance)
            # What need not wait for the others' letters is done while they are on their way. It is
            # the time to read and write memory, too: a commit, as comes after them, is a fence,
            # ahead of which what was begun has to be done (in SASS MEMBAR.ALL.CTA).
            letters.at[0].transpose((1, 0))[...] = letter
            plgpu.commit_smem()
            x_of_r, x_of_z, x_of_n = (turn(tile, WGMMA) for tile in x)
            store_tile(states, turn(before, WGMMA_TRANSPOSED), index(count - 1))
            following = read(count + 1)

            def receive() -> None:
                team.receive(mail_barriers, count, letter)
                plgpu.commit_smem()

            sums = _products(u_memory, letters, receive)

            def affine(
                operand: Array, weights: Ref, addends: Sequence[Array | None]
            ) -> tuple[Array, ...]:
                del operand, weights  # Their products are the sums.
                return tuple(
                    total if addend is None else total + addend
                    for total, addend in zip(sums, addends, strict=True)
                )

            new = gru_step_reset_after(h, (x_of_r, x_of_z, x_of_n), u_memory, bias, affine)
            return new if bits is None else choose(bits & VALID, new, h), following

        begin = turn(load_carry(h0), WGMMA), read(0)
        h, _ = lax.fori_loop(0, time, step, begin)
        h = turn(h, WGMMA_TRANSPOSED)
        store_tile(states, h, index(time - 1))
        store_tile(last, h)
        team.part(farewell_barrier)

    run = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct((time, batch, hidden), dtype),
            jax.ShapeDtypeStruct((batch, hidden), jnp.float32),
        ),
        scratch_types=[
            team.memory((3, UNITS, hidden), operands),
            team.memory((2, members, SEQUENCES, UNITS), operands),
            plgpu.Barrier(num_arrivals=3),
            mail.barriers(members - 1),
            team.farewell_barrier(),
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
    inputs = (*projected, _cut_weights(w_h, members), b_hn, start, initial)
    return run(*inputs, *([] if flags is None else [flags]))


def _cut_weights(w_h: Array, members: int) -> Array:
    """To each member U^T for its units of every gate, (members, 3, 64, H)."""
    senders_first = w_h.reshape(members, UNITS, 3, members, UNITS).transpose(3, 0, 2, 4, 1)
    return by_distance(senders_first).transpose(0, 2, 3, 1, 4).reshape(members, 3, UNITS, -1)


def _products(weights: Ref, letters: Ref, receive: Callable[[], None]) -> tuple[Array, ...]:
    """``U^T h`` for each gate: (3, units, H) by (members, sequences, units).

    The caller's own letter is there already; ``receive`` waits for the others.
    """
    members, _, _ = letters.shape

    def accumulate(*sums: Ref) -> tuple[Array, ...]:
        def add(distance: Array | int, first: Array | int) -> None:
            operand = letters.at[distance].transpose((1, 0))
            for gate, total in enumerate(sums):
                plgpu.wgmma(total, weights.at[gate, :, pl.ds(first, UNITS)], operand)

        add(0, 0)
        receive()

        # A loop, and not all members one after the other: the compiler would keep an address of
        # every piece in registers, of which there are not as many.
        @pl.loop(1, members)
        def _(distance: Array) -> None:
            add(distance, pl.multiple_of(distance * UNITS, UNITS))

        return tuple(total[...] for total in sums)

    tile = plgpu.WGMMAAccumulatorRef((UNITS, SEQUENCES), jnp.float32)
    return pl.run_scoped(accumulate, tile, tile, tile)
