"""Asynchronous stores into the shared memory of other CTAs of the cluster (DSMEM).

A transaction-count mbarrier of the receiver completes them (PTX ISA, ``st.async`` and
``mbarrier.expect_tx``): the receiver says how many bytes it expects, and senders never arrive.
With ``plgpu.async_store_smem`` every thread of the sender arrives at the receiver's mbarrier for
each message; a remote arrival is a release, which waits until all earlier accesses are visible on
the whole device (MEMBAR.ALL.GPU in SASS). Pallas does not expose the address of its barriers, so
this module allocates its own.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import arith, gpu, llvm

from gru_jax.typing import Array

Ref = Any
"""A reference of Pallas: memory of a kernel, or a part of it."""

SCALAR = plgpu.Layout.WG_SPLAT
inline_mgpu: Any = plgpu.inline_mgpu


def mbarrier_scratch(num_messages: int) -> Any:
    """The scratch type of two mbarriers, for even and for odd steps with ``num_messages`` each."""
    del num_messages  # These mbarriers count bytes; those of the tests' interpreter count arrivals.
    return plgpu.SMEM((4,), jnp.int32)


def init_mbarriers(mbarriers: Ref) -> None:
    """Initialises the mbarriers of all CTAs of the cluster, before any message is sent."""

    @inline_mgpu(arg_types=(plgpu.RefType(),))
    def run(context: Any, mbarriers: Any) -> None:
        del context
        _ptx(
            "@is_leader mbarrier.init.shared::cta.b64 [$0], 1;"
            "@is_leader mbarrier.init.shared::cta.b64 [$0+8], 1;"
            "@is_leader fence.mbarrier_init.release.cluster;"
            "barrier.cluster.arrive.release.aligned;"
            "barrier.cluster.wait.acquire.aligned;",
            mgpu.utils.memref_ptr(mbarriers),
        )

    run(mbarriers)


def store_remote_async(
    message: Array,  # (M, N), in the layout WGMMA_TRANSPOSED
    slot_ref: Ref,  # (N, M), the destination, as a reference to the sender's own shared memory
    transforms: tuple[Any, Any],  # of that memory, a tiling and a swizzle
    mbarriers: Ref,  # see mbarrier_scratch
    slot: Array,  # which mbarrier counts the bytes, 0 or 1
    receiver: Array,  # rank of the receiving CTA
) -> None:
    """Sends a message."""
    refs = (plgpu.RefType(transforms), plgpu.RefType())

    @inline_mgpu(arg_types=(plgpu.Layout.WGMMA_TRANSPOSED, *refs, SCALAR, SCALAR))
    def run(
        context: Any, message: Any, slot_ref: Any, mbarriers: Any, slot: Any, receiver: Any
    ) -> None:
        del context
        message.store_tiled_async(
            mgpu.memref_transpose(slot_ref, (1, 0, 3, 2)),
            _mbarrier(mbarriers, slot),
            cluster_dim=gpu.Dimension.x,
            cluster_idx=arith.index_cast(ir.IndexType.get(), _mlir_value(receiver)),
            swizzle=transforms[1].swizzle,
            optimized=False,
            tiling_rank=2,
        )

    run(message, slot_ref, mbarriers, slot, receiver)


def wait_bytes(mbarriers: Ref, slot: Array, parity: Array, num_bytes: int) -> None:
    """Waits until the ``num_bytes`` of all messages of a step have arrived.

    ``parity`` is of the phase of mbarrier ``slot``: 0 at its first wait, then alternating.
    """

    @inline_mgpu(arg_types=(plgpu.RefType(), SCALAR, SCALAR))
    def run(context: Any, mbarriers: Any, slot: Any, parity: Any) -> None:
        del context
        # Bytes may arrive before they are expected: a phase completes when no arrival and no byte
        # is pending (PTX ISA, "Phase completion of the mbarrier").
        _ptx(
            f"@is_leader mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {num_bytes};"
            "spin: mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;"
            "@!done bra spin;",
            _mbarrier(mbarriers, slot).get_ptr(),
            _mlir_value(parity),
        )

    run(mbarriers, slot, parity)


def _mbarrier(mbarriers: Any, slot: Any) -> mgpu.BarrierRef:
    phases: Any = None  # The caller tracks the parity.
    return mgpu.BarrierRef(mgpu.utils.memref_ptr(mbarriers), _mlir_value(slot), phases, 1)


def _mlir_value(scalar: Any) -> Any:
    return scalar.registers.item()


def _ptx(code: str, pointer: Any, *scalars: Any) -> None:
    """Runs PTX in every thread; ``is_leader`` holds in the CTA's first thread."""
    llvm.inline_asm(
        ir.Type.parse("!llvm.void"),
        [pointer, *scalars],
        "{.reg .pred is_leader, done; .reg .b32 thread; mov.u32 thread, %tid.x;"
        f"setp.eq.u32 is_leader, thread, 0; {code}}}",
        ",".join(["r"] * (1 + len(scalars))),
        has_side_effects=True,
    )
