"""Fused kernels for TPU. Compiled for v4, v5e and v6e and checked in interpret mode; never timed."""

import jax

from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array
from gru_jax.unroll import fused
from gru_jax.unroll.call import Call
from gru_jax.unroll.control import Steps
from gru_jax.unroll.kernels import transformable
from gru_jax.unroll.pallas_tpu.tiles import LANES, VMEM_MIB, fit


def unsupported(call: Call) -> str | None:
    """Why these kernels cannot serve a call; None where they can."""
    if call.platform != "tpu":
        return f"it runs on TPU, and this is {call.platform}"
    if call.device_kind not in VMEM_MIB:
        kinds = ", ".join(VMEM_MIB)
        return f"it is compiled for {kinds}, and this is {call.device_kind}"
    reason = fused.unsupported(call)
    if reason is not None:
        return reason
    hidden = call.cell.w_h.shape[0]
    if hidden % LANES:
        return f"the hidden size must be a multiple of {LANES}, and is {hidden}"
    mebibytes = VMEM_MIB[call.device_kind]
    if fit(call.time, call.sequences, hidden, 2, mebibytes * 2**20) is None:
        return f"a hidden size of {hidden} does not fit into the {mebibytes} MiB of VMEM"
    return None


def run(
    cell: GRUParams, steps: Steps, state: Array, *, reverse: bool, recompute: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time; nothing but the states is kept for gradients either way."""
    del recompute
    # Pallas takes longer to import than all of this library, and serves few of its users.
    from gru_jax.unroll.pallas_tpu.kernels import pair

    kind = jax.devices("tpu")[0].device_kind
    kernels = transformable(pair(VMEM_MIB[kind] * 2**20), "tpu")
    return fused.run(cell, steps, state, reverse=reverse, kernels=kernels)
