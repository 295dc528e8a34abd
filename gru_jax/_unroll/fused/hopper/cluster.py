"""Who walks a batch tile together, and how its members send arrays to one another.

Every member owns 64 hidden units of 16 sequences. Arrays lie transposed in a member's registers,
(units, sequences), so that units fill the wide side of a product and a small batch the narrow one.
Members are the blocks of a thread-block cluster, each of which holds its part of the weights in its
own shared memory and registers.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem as mail
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax.typing import Array, DType

UNITS = 64
"""Hidden units of a member: the rows of one warpgroup's product (PTX ISA, wgmma.mma_async)."""
SEQUENCES = 16
"""Sequences of a batch tile, the columns of the product: the narrowest that can be swizzled."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The members that share a batch tile.

    Every step each sends one letter to each other, an array (units, sequences), and waits until it
    has all of its own. A mailbox has two slots, for even and for odd steps, and a barrier for each.

    That suffices. Say that a member sends for step t, into slot t mod 2. It has all letters of
    step t - 1, so every thread of everybody else has sent its part of those, which it does after
    it has waited for and read the letters of step t - 2: what was in the slot has been read, and
    the barrier's phase of step t - 2 is over and seen by all, so that nothing is counted for a
    step that it does not belong to. A sequence ends with nothing in the mailboxes unread.

    In a mailbox, and wherever there is a part for each member, they are in the order of their
    distance: the owner, whose distance is 0, then the member after it, and so round. Where
    something lies is thus known when a kernel is compiled.

    Attributes:
        members: how many; the hidden size is 64 times that.
    """

    members: int

    @property
    def mesh(self) -> dict[str, Any]:
        """What :func:`plgpu.kernel` takes to make the members an axis."""
        return {"cluster": (self.members,), "cluster_names": ("member",)}

    def memory(self, shape: tuple[int, ...], dtype: DType) -> Any:
        """Shared memory of each member's own, that products can read."""
        return plgpu.SMEM(shape, dtype, transforms=_transforms(dtype))

    def farewell_barrier(self) -> Any:
        """What :meth:`part` needs."""
        return plgpu.ClusterBarrier(collective_axes=("member",))

    def send(
        self, letter: Array, place: Ref, barriers: Ref, count: Array, distance: Array | int
    ) -> None:
        """Sends a letter of step ``count`` to a member, for a place in its mailbox."""
        to = lax.rem(lax.axis_index("member") + distance, self.members)
        slot = lax.rem(count, 2)
        mail.post(letter, place, _transforms(letter.dtype), barriers, slot, to)

    def receive(self, barriers: Ref, count: Array, letter: Array) -> None:
        """Waits for all letters of step ``count``, the caller having sent its own, as ``letter``.

        Products read by another path than stores write by (PTX ISA, async proxy): ahead of them it
        has to be committed what came.
        """
        slot, parity = lax.rem(count, 2), lax.rem(lax.div(count, 2), 2)
        size = (self.members - 1) * letter.size * letter.dtype.itemsize
        mail.wait(barriers, slot, parity, size)

    def part(self, farewell_barrier: Ref) -> None:
        """Ends a kernel.

        A member that comes here has received all that was sent to it. Once every one has,
        nothing is on its way any more, and their shared memory may go.
        """
        plgpu.barrier_arrive(farewell_barrier)
        plgpu.barrier_wait(farewell_barrier)


def fetch(weights: Ref, memory: Ref, barrier: Ref) -> None:
    """Brings the caller's part of ``weights`` (members, copies, ...) into its memory.

    Where there is room for fewer copies, it is the last of them that come. The barrier has as many
    arrivals as there are copies in memory.
    """
    copies = memory.shape[0]
    first = weights.shape[1] - copies
    # One copy cannot have all of the axes that tiling makes of these.
    for copy in range(copies):
        part = weights.at[lax.axis_index("member"), first + copy]
        plgpu.copy_gmem_to_smem(part, memory.at[copy], barrier)
    plgpu.barrier_wait(barrier)


def by_distance(parts: Array) -> Array:
    """For each member a part for each, (members, members, ...), in the order of their distance."""
    owner = np.arange(len(parts))[:, None]
    return parts[owner, (owner + np.arange(len(parts))) % len(parts)]


def _transforms(dtype: DType) -> tuple[Any, Any]:
    """Of what products read: rows of 128 bytes, the widest swizzle, alike for both operands."""
    row = 128 // jnp.dtype(dtype).itemsize
    return plgpu.TilingTransform((8, row)), plgpu.SwizzleTransform(128)
