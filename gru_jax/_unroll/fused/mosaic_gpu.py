"""A GRU by fused kernels for NVIDIA GPUs: those for Hopper, or the one-block kernels."""

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused import hopper, one_block
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

targets = hopper.targets


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why no kernel for NVIDIA GPUs supports a call; empty if one does."""
    of_hopper = hopper.unsupported_reasons(spec)
    if spec.platform != "gpu":
        return of_hopper
    of_one_block = one_block.unsupported_reasons(spec)
    if not of_hopper or not of_one_block:
        return []
    others = [reason for reason in of_one_block if reason not in of_hopper]
    return [*of_hopper, *(f"one-block kernels: {reason}" for reason in others)]


def run(
    spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array, *, reverse: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time."""
    return _kernels_for(spec).run(spec, cell, inputs, h0, reverse=reverse)


def describe(spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array) -> list[str]:
    """Which kernels run a call, and what they do with it, a line for each decision."""
    kernels = _kernels_for(spec)
    name = "the kernels for Hopper" if kernels is hopper else "the one-block kernels"
    return [name, *kernels.describe(spec, cell, inputs, h0)]


def _kernels_for(spec: CallSpec):
    # Those for Hopper have run on one.
    return one_block if hopper.unsupported_reasons(spec) else hopper
