"""Who walks a batch tile together, and how its members send arrays to one another.

Every member owns 64 hidden units of 16 sequences. Arrays lie transposed in a member's registers,
(units, sequences), so that units fill the wide side of a product and a small batch the narrow one.

Members are the blocks of a thread-block cluster, each of which holds its part of the weights in its
own shared memory; or, where all weights fit in one, the warpgroups of a single block. What differs
is told here and nowhere else, so that what is checked for the one holds for the other.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax.typing import Array, DType

UNITS = 64
"""Hidden units of a member: the rows of one warpgroup's product (PTX ISA, wgmma.mma_async)."""
SEQUENCES = 16
"""Sequences of a batch tile, the columns of the product: the narrowest that can be swizzled."""

Ref = Any
"""A reference of Pallas: memory of a kernel, or a part of it."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The members that share a batch tile.

    Every step they send each other letters, arrays (units, sequences), and wait until they have
    all of their own. A mailbox has two slots, for even and for odd steps, and a barrier for each.

    That suffices. Say that a member sends for step t, into slot t mod 2. It has all letters of
    step t - 1, so every thread of everybody else has sent its part of those, which it does after
    it has waited for and read the letters of step t - 2: what was in the slot has been read, and
    the barrier's phase of step t - 2 is over and seen by all, so that no arrival is counted for
    a step that it does not belong to. A sequence ends with nothing in the mailboxes unread.

    Attributes:
        members: how many; the hidden size is 64 times that.
        clustered: whether they are the blocks of a cluster, and not the warpgroups of a block.
    """

    members: int
    clustered: bool

    @property
    def mesh(self) -> dict[str, Any]:
        """What :func:`plgpu.kernel` takes to make the members an axis."""
        if self.clustered:
            return {"cluster": (self.members,), "cluster_names": ("member",)}
        return {"num_threads": self.members, "thread_name": "member"}

    def memory(self, shape: tuple[int, ...], dtype: DType) -> Any:
        """Shared memory of each member's own, that products can read; see :meth:`mine`."""
        # Both operands of a product must be swizzled alike, in rows of 16 sequences.
        row = SEQUENCES * jnp.dtype(dtype).itemsize
        transforms = (plgpu.TilingTransform((8, SEQUENCES)), plgpu.SwizzleTransform(row))
        shape = shape if self.clustered else (self.members, *shape)
        return plgpu.SMEM(shape, dtype, transforms=transforms)

    def fetch_barrier(self, copies: int) -> Any:
        """What :meth:`fetch` needs: a barrier of each member's own."""
        return plgpu.Barrier(
            num_arrivals=copies, num_barriers=1 if self.clustered else self.members
        )

    def mailbox(self, letters: int, dtype: DType) -> Any:
        """Memory of each member's own for ``letters`` letters a step."""
        return self.memory((2, letters, UNITS, SEQUENCES), dtype)

    def mail_barriers(self, letters: int) -> Any:
        """The barriers of mailboxes: one a block."""
        arrivals = letters if self.clustered else self.members
        return plgpu.Barrier(num_arrivals=arrivals, num_barriers=2)

    def farewell_barrier(self) -> list[Any]:
        """What :meth:`part` needs."""
        return [plgpu.ClusterBarrier(collective_axes=("member",))] if self.clustered else []

    def mine(self, ref: Ref) -> Ref:
        """The caller's own part of memory."""
        return ref if self.clustered else ref.at[lax.axis_index("member")]

    def fetch(self, weights: Ref, memory: Ref, barrier: Ref) -> None:
        """Brings the caller's part of ``weights`` (members, copies, ...) into its memory."""
        member = lax.axis_index("member")
        memory = self.mine(memory)
        barrier = barrier.at[0 if self.clustered else member]
        # One copy cannot have all of the axes that tiling makes of these.
        for copy in range(weights.shape[1]):
            plgpu.copy_gmem_to_smem(weights.at[member, copy], memory.at[copy], barrier)
        plgpu.barrier_wait(barrier)

    def send(
        self, letter: Array, mailbox: Ref, barriers: Ref, slot: Array, place: Array, to: Array | int
    ) -> None:
        """Sends a letter to the member ``to``, for the ``place`` in its mailbox."""
        if self.clustered:
            # The store arrives at the receiver's barrier, and the barrier waits for its bytes.
            # The receiver's barriers exist: Mosaic has a cluster wait for all of its blocks
            # between setting barriers up and the kernel's first line.
            plgpu.async_store_smem(
                letter,
                mailbox.at[slot, place],
                barriers.at[slot],
                cluster_idx=jnp.asarray(to, jnp.int32),
                cluster_dim="member",
                optimized=False,
            )
        else:
            mailbox[to, slot, place] = letter

    def receive(self, barriers: Ref, slot: Array) -> None:
        """Waits until all letters of this step have come, the caller having sent its own."""
        if not self.clustered:
            # Products read through another path to memory than stores write by (PTX ISA, async
            # proxy): stores are committed to it before anybody learns of them.
            plgpu.commit_smem()
            plgpu.barrier_arrive(barriers.at[slot])
        plgpu.barrier_wait(barriers.at[slot])
        if self.clustered:
            # Here only the receiver knows when the stores are through, so it commits them.
            plgpu.commit_smem()

    def part(self, farewell_barrier: list[Ref]) -> None:
        """Ends a kernel.

        A member that comes here has received all that was sent to it. Once every one has,
        nothing is on its way any more, and their shared memory may go.
        """
        for barrier in farewell_barrier:
            plgpu.barrier_arrive(barrier)
            plgpu.barrier_wait(barrier)
