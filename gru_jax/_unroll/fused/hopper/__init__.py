"""A GRU by fused kernels for Hopper GPUs, checked on an H200."""

import importlib.util

from gru_jax._unroll.call_spec import Call, Memory
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.masking import Steps
from gru_jax._unroll.transform_rules import transformable
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

HOPPER = ("H100", "H200", "H800", "H20", "GH200")
"""Words in the names of devices of compute capability 9.0, whose instructions the kernels use."""

HIDDEN_SIZES = (128, 256, 384, 512)
"""What a cluster of two to eight blocks holds the weights of."""


def unsupported(call: Call) -> str | None:
    """Why these kernels cannot serve a call; None where they can."""
    if call.platform != "gpu":
        return f"it runs on Hopper GPUs, and this is {call.platform}"
    if not set(HOPPER) & set(call.device_kind.split()):
        return f"it runs on Hopper GPUs ({', '.join(HOPPER)}), and this is {call.device_kind}"
    if importlib.util.find_spec("absl") is None:
        return "Pallas for GPU needs absl-py, which jax does not bring: pip install absl-py"
    reason = fused.unsupported(call)
    if reason is not None:
        return reason
    assert isinstance(call.cell, GRUParams), "or there was a reason"
    hidden = call.cell.hidden_size
    if hidden not in HIDDEN_SIZES:
        sizes = ", ".join(map(str, HIDDEN_SIZES))
        return f"the hidden size must be one of {sizes}, and is {hidden}"
    return None


def run(
    cell: GRUParams, steps: Steps, state: Array, *, reverse: bool, memory: Memory
) -> tuple[Array, Array]:
    """Runs a GRU over time; nothing but the states is kept for gradients either way."""
    del memory
    # Pallas takes longer to import than all of this library, and serves few of its users.
    from gru_jax._unroll.fused.hopper.launch import pair

    return fused.run(cell, steps, state, reverse=reverse, kernels=transformable(pair(), "cuda"))
