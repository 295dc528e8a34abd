"""The way forward: a GRU's states, step by step, with all weights in shared memory."""

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


def walk(
    team: Team,
    projected: Gates,
    w_h: Array,
    b_hn: Array,
    start: Array,
    initial: Array,
    valid: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
    dtype: DType,
    interpret: object,
) -> tuple[Array, Array]:
    """See :class:`gru_jax.unroll.kernels.Forward`; B is a multiple of 16, flags are int32.

    Every step each member sends its units' state to all, and computes its units' gates.
    """
    time, batch, hidden = projected[0].shape
    members = team.members
    flags = [flag for flag in (valid, resets) if flag is not None]

    def kernel(*refs: Ref) -> None:
        projected_refs, (u_ref, b_ref, start_ref, initial_ref, *refs) = refs[:3], refs[3:]
        valid_ref = None if valid is None else refs.pop(0)
        resets_ref = None if resets is None else refs.pop(0)
        states_ref, last_ref, u_memory, mailbox, fetch_barrier, mail_barriers, *farewell = refs

        member = lax.axis_index("member")
        team.fetch(u_ref, u_memory, fetch_barrier)
        u_memory = team.mine(u_memory)
        bias = load_of_units(b_ref)
        put_in = None if resets is None else load_tile(initial_ref)

        def product(h: Array, u: Ref, addends: tuple[Array, ...], slot: Array) -> list[Array]:
            for other in range(members):
                team.send(h.astype(w_h.dtype), mailbox, mail_barriers, slot, member, other)
            team.receive(mail_barriers, slot)
            sums = _products(u, team.mine(mailbox).at[slot], members)
            return [addend + total for addend, total in zip(addends, sums, strict=True)]

        def step(count: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
            h, *begins = carry
            t, following = (
                (time - 1 - count, jnp.maximum(time - 2 - count, 0))
                if reverse
                else (count, jnp.minimum(count + 1, time - 1))
            )
            if resets_ref is not None:
                h = choose(begins[0], put_in, h)
                # Read a step ahead: what a step begins with must not wait for memory.
                begins = [load_flags(resets_ref, following)]
            # On the way while the members send.
            x = tuple(load_tile(ref, t) for ref in projected_refs)
            reads = None if valid_ref is None else load_flags(valid_ref, t)
            slot = lax.rem(count, 2)
            new = combine_reset_after(
                h, x, u_memory, bias, lambda h, u, addends: product(h, u, addends, slot)
            )
            h = new if reads is None else choose(reads, new, h)
            store_tile(states_ref, h, t)
            return h, *begins

        carry = [load_carry(start_ref)]
        if resets_ref is not None:
            carry.append(load_flags(resets_ref, time - 1 if reverse else 0))
        h, *_ = lax.fori_loop(0, time, step, tuple(carry))
        store_tile(last_ref, h)
        team.part(farewell)

    run = plgpu.kernel(
        kernel,
        out_type=(
            jax.ShapeDtypeStruct((time, batch, hidden), dtype),
            jax.ShapeDtypeStruct((batch, hidden), jnp.float32),
        ),
        scratch_types=[
            team.memory((3, UNITS, hidden), w_h.dtype),
            team.mailbox(members, w_h.dtype),
            team.fetch_barrier(3),
            team.mail_barriers(members),
            *team.farewell_barrier(),
        ],
        grid=(batch // SEQUENCES,),
        grid_names=("tile",),
        kernel_name="gru_forward",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        interpret=interpret,
        **team.mesh,
    )
    # To each member U^T for its units of every gate, (members, 3, 64, H).
    cut = w_h.reshape(hidden, 3, members, UNITS).transpose(2, 1, 3, 0)
    return run(*projected, cut, b_hn, start, initial, *flags)


def _products(u: Ref, h: Ref, members: int) -> tuple[Array, ...]:
    """``U^T h`` for each gate: (3, units, H) by (members, units, sequences)."""

    def accumulate(*sums: Ref) -> tuple[Array, ...]:
        # A loop, and not all members one after the other: the compiler would keep an address of
        # every piece in registers, of which there are not as many.
        @pl.loop(0, members)
        def _(member: Array) -> None:
            units = pl.ds(pl.multiple_of(member * UNITS, UNITS), UNITS)
            for gate, total in enumerate(sums):
                plgpu.wgmma(total, u.at[gate, :, units], h.at[member])

        return tuple(total[...] for total in sums)

    return pl.run_scoped(accumulate, *[plgpu.ACC((UNITS, SEQUENCES), jnp.float32)] * 3)
