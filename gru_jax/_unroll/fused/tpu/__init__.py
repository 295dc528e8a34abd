"""A GRU by fused kernels for TPU: compiled for them and right in interpret mode, never timed."""

from gru_jax._unroll.call_spec import Call, Memory, default_device
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.tpu.tiling import CHIPS, LANES, largest_hidden
from gru_jax._unroll.masking import Steps
from gru_jax._unroll.transform_rules import transformable
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array


def unsupported(call: Call) -> str | None:
    """Why these kernels cannot serve a call; None where they can."""
    if call.platform != "tpu":
        return f"it runs on TPU, and this is {call.platform}"
    if call.device_kind not in CHIPS:
        return f"it is compiled for {', '.join(CHIPS)}, and this is {call.device_kind}"
    reason = fused.unsupported(call)
    if reason is not None:
        return reason
    assert isinstance(call.cell, GRUParams), "or there was a reason"
    hidden, most = call.cell.hidden_size, largest_hidden(CHIPS[call.device_kind])
    if hidden % LANES or hidden > most:
        return f"the hidden size must be a multiple of {LANES} up to {most}, and is {hidden}"
    return None


def run(
    cell: GRUParams, steps: Steps, state: Array, *, reverse: bool, memory: Memory
) -> tuple[Array, Array]:
    """Runs a GRU over time; nothing but the states is kept for gradients either way."""
    del memory
    # Pallas takes longer to import than all of this library, and serves few of its users.
    from gru_jax._unroll.fused.tpu.kernels import pair

    kernels = transformable(pair(CHIPS[default_device().device_kind]), "tpu")
    return fused.run(cell, steps, state, reverse=reverse, kernels=kernels)
