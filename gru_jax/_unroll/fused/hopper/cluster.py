"""A thread-block cluster that processes one batch tile, and the exchange between its CTAs.

``README.md`` has the notation. Each CTA holds its units' weights in its own shared memory and
registers. Its arrays are (M, N) in registers: units are the wide dimension of the matmul, and the
batch may be small.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from gru_jax._unroll.fused.hopper import dsmem
from gru_jax._unroll.fused.hopper.dsmem import Ref
from gru_jax.typing import Array, DType

UNITS_PER_CTA = 64
"""Hidden units of a CTA: the rows of one warpgroup's matmul (PTX ISA, wgmma.mma_async)."""
TILE_BATCH = 16
"""Sequences of a batch tile, the columns of that matmul: the fewest that can be swizzled."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The CTAs that share a batch tile.

    In every step each CTA sends one message (M, N) to each other CTA, and waits for all messages
    sent to it. A receive buffer has two slots, for even and for odd steps, with an mbarrier each.

    Receive buffers and partitioned weights are ordered by rank offset: the CTA's own part has
    offset 0, then comes the CTA of the next rank, modulo C. This makes every address but the
    receiver's rank a compile-time constant.
    """

    num_ctas: int

    def kernel(
        self,
        body: Callable[..., None],
        *,
        name: str,
        shape: tuple[int, int, int],
        dtype: DType,
        scratch_types: Any,
        interpret: Any,
    ) -> Callable[..., Any]:
        """``plgpu.kernel`` over a grid of one cluster for each batch tile.

        Its results are ``shape`` (T, B, H) in ``dtype``, and (B, H) in float32.
        """
        last = jax.ShapeDtypeStruct(shape[1:], jnp.float32)
        return plgpu.kernel(
            body,
            out_type=(jax.ShapeDtypeStruct(shape, dtype), last),
            scratch_types=scratch_types,
            grid=(shape[1] // TILE_BATCH,),
            grid_names=("batch_tile",),
            cluster=(self.num_ctas,),
            cluster_names=("cta",),
            kernel_name=name,
            compiler_params=plgpu.CompilerParams(
                lowering_semantics=plgpu.LoweringSemantics.Warpgroup, reduction_scratch_bytes=0
            ),
            interpret=interpret,
        )

    def smem(self, shape: tuple[int, ...], dtype: DType) -> Any:
        """The scratch type of each CTA's shared memory that matmuls can read."""
        return plgpu.SMEM(shape, dtype, transforms=_transforms(dtype))

    def exit_barrier(self) -> Any:
        """The scratch type that :meth:`exit_sync` takes."""
        return plgpu.ClusterBarrier(collective_axes=("cta",))

    def send(
        self, message: Array, slot_ref: Ref, mbarriers: Ref, step: Array, rank_offset: Array | int
    ) -> None:
        """Sends the message of ``step`` to another CTA, into ``slot_ref`` of its receive buffer."""
        receiver = lax.rem(lax.axis_index("cta") + rank_offset, self.num_ctas)
        transforms, slot = _transforms(message.dtype), lax.rem(step, 2)
        dsmem.store_remote_async(message, slot_ref, transforms, mbarriers, slot, receiver)

    def receive(self, mbarriers: Ref, step: Array, message: Array) -> None:
        """Waits for all messages of ``step``, each as large as ``message``.

        Matmuls read through the async proxy (PTX ISA): ``plgpu.commit_smem`` has to come between.
        """
        slot, parity = lax.rem(step, 2), lax.rem(lax.div(step, 2), 2)
        num_bytes = (self.num_ctas - 1) * message.size * message.dtype.itemsize
        dsmem.wait_bytes(mbarriers, slot, parity, num_bytes)

    def exit_sync(self, exit_barrier: Ref) -> None:
        """Ends a kernel.

        A CTA that arrives has received every message sent to it. Once all CTAs have arrived no
        message is in flight, and their shared memory may be released.
        """
        plgpu.barrier_arrive(exit_barrier)
        plgpu.barrier_wait(exit_barrier)

    def load_weights(self, weights: Ref, w_smem: Ref, barrier: Ref) -> None:
        """Copies this CTA's last parts of ``weights`` (C, parts, ...) to ``w_smem``.

        The barrier has one arrival for each part copied.
        """
        num_parts = w_smem.shape[0]
        first = weights.shape[1] - num_parts
        # One copy cannot have all of the axes that tiling makes of these.
        for part in range(num_parts):
            source = weights.at[lax.axis_index("cta"), first + part]
            plgpu.copy_gmem_to_smem(source, w_smem.at[part], barrier)
        plgpu.barrier_wait(barrier)

    def by_rank_offset(self, parts: Array) -> Array:
        """Reorders the second axis of (C, C, ...) from ranks to rank offsets to the first axis."""
        rank = np.arange(self.num_ctas)
        return parts[rank[:, None], (rank[:, None] + rank) % self.num_ctas]


def _transforms(dtype: DType) -> tuple[Any, Any]:
    """Layout of matmul operands: rows of 128 bytes, the widest swizzle, equal for both operands."""
    row = 128 // jnp.dtype(dtype).itemsize
    return plgpu.TilingTransform((8, row)), plgpu.SwizzleTransform(128)
