"""Letters between the blocks of a cluster: stores that a barrier of the receiver counts in bytes.

With ``plgpu.async_store_smem`` every thread of the sender arrives at the receiver's barrier for
each letter, and a remote arrival is a release, ahead of which all that came before has to have
reached the whole device (in SASS MEMBAR.ALL.GPU). Here senders arrive nowhere. The receiver says
how many bytes it expects, and the stores complete them (PTX ISA, st.async and mbarrier.expect_tx).
Pallas does not hand out the address of a barrier, so these are our own.
"""

from collections.abc import Callable
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


def barriers(letters: int) -> Any:
    """Memory for two barriers, for even and for odd steps, of a block that gets ``letters``."""
    del letters  # What is counted is bytes.
    return plgpu.SMEM((4,), jnp.int32)


def open_barriers(barriers: Ref) -> None:
    """Makes the barriers of all blocks of the cluster ready, before anything is sent."""

    @_inline(plgpu.RefType())
    def run(context: Any, barriers: Any) -> None:
        del context
        _ptx(
            "@leads mbarrier.init.shared::cta.b64 [$0], 1;"
            "@leads mbarrier.init.shared::cta.b64 [$0+8], 1;"
            "@leads fence.mbarrier_init.release.cluster;"
            "barrier.cluster.arrive.release.aligned;"
            "barrier.cluster.wait.acquire.aligned;",
            mgpu.utils.memref_ptr(barriers),
        )

    run(barriers)


def post(
    letter: Array,
    place: Ref,
    transforms: tuple[Any, Any],
    barriers: Ref,
    slot: Array,
    to: Array,
) -> None:
    """Sends a letter.

    Args:
        letter: (units, sequences), laid out as WGMMA_TRANSPOSED.
        place: where it goes, as the caller's own memory has it, (sequences, units).
        transforms: those of that memory, a tiling and a swizzle.
        barriers: see :func:`barriers`.
        slot: of the barrier that counts it, 0 or 1.
        to: the block that gets it.
    """

    @_inline(
        plgpu.Layout.WGMMA_TRANSPOSED, plgpu.RefType(transforms), plgpu.RefType(), SCALAR, SCALAR
    )
    def run(context: Any, letter: Any, place: Any, barriers: Any, slot: Any, to: Any) -> None:
        del context
        letter.store_tiled_async(
            mgpu.memref_transpose(place, (1, 0, 3, 2)),
            _barrier(barriers, slot),
            cluster_dim=gpu.Dimension.x,
            cluster_idx=arith.index_cast(ir.IndexType.get(), _number(to)),
            swizzle=transforms[1].swizzle,
            optimized=False,
            tiling_rank=2,
        )

    run(letter, place, barriers, slot, to)


def wait(barriers: Ref, slot: Array, parity: Array, size: int) -> None:
    """Waits for the letters that are sent to the caller in a step.

    Args:
        barriers: see :func:`barriers`.
        slot: of the barrier that counts them, 0 or 1.
        parity: 1 on every second wait for that barrier, beginning with 0.
        size: bytes of all of them.
    """

    @_inline(plgpu.RefType(), SCALAR, SCALAR)
    def run(context: Any, barriers: Any, slot: Any, parity: Any) -> None:
        del context
        # That some of it may have come already does no harm: a phase ends when what has arrived
        # and what was expected are both complete (PTX ISA, "Phase completion of the mbarrier").
        _ptx(
            f"@leads mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], {size};"
            "again: mbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;"
            "@!done bra again;",
            _barrier(barriers, slot).get_ptr(),
            _number(parity),
        )

    run(barriers, slot, parity)


def _inline(*arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates what writes MLIR, given types of Pallas, so that it can be called in a kernel."""
    return plgpu.inline_mgpu(arg_types=arguments)


def _barrier(barriers: Any, slot: Any) -> mgpu.BarrierRef:
    phases: Any = None  # They are told by the caller.
    return mgpu.BarrierRef(mgpu.utils.memref_ptr(barriers), _number(slot), phases, 1)


def _number(scalar: Any) -> Any:
    return scalar.registers.item()


def _ptx(code: str, pointer: Any, *numbers: Any) -> None:
    """Runs PTX in every thread; ``leads`` is set in the first of the block."""
    llvm.inline_asm(
        ir.Type.parse("!llvm.void"),
        [pointer, *numbers],
        "{.reg .pred leads, done; .reg .b32 thread; mov.u32 thread, %tid.x;"
        f"setp.eq.u32 leads, thread, 0; {code}}}",
        ",".join(["r"] * (1 + len(numbers))),
        has_side_effects=True,
    )
