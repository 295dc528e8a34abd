"""A GRU by fused kernels for TPU: compiled for it and tested in interpret mode, never timed."""

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.reference_kernels import INTERFACE
from gru_jax._unroll.fused.tpu.tiling import LANES, MAX_HIDDEN_SIZE, TPU_SPECS, max_hidden_size
from gru_jax._unroll.fused.transforms import with_transform_rules
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

describe = fused.describe


def targets(spec: CallSpec) -> bool:
    """Whether the kernels are made for the device of a call, and have run on such a one."""
    return spec.device_kind in TPU_SPECS and "tpu" in fused.VERIFIED_PLATFORMS


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why these kernels do not support a call; empty if they do."""
    reasons = []
    most = MAX_HIDDEN_SIZE
    if spec.platform != "tpu":
        reasons.append(f"it needs a TPU, but the default device is a {spec.platform.upper()}")
    elif spec.device_kind not in TPU_SPECS:
        kinds = ", ".join(TPU_SPECS)
        reasons.append(f"it needs one of {kinds}, but the default device is {spec.device_kind}")
    else:
        most = max_hidden_size(TPU_SPECS[spec.device_kind])
        if "tpu" not in fused.VERIFIED_PLATFORMS and not spec.is_explicit:
            reasons.append("it has never run on a TPU, so it must be requested explicitly")
    reasons += fused.unsupported_reasons(spec)
    if type(spec.cell) is GRUParams:
        hidden = spec.cell.hidden_size
        if hidden % LANES or hidden > most:
            reasons.append(
                f"the hidden size must be a multiple of {LANES} up to {most}, got {hidden}"
            )
    return reasons


def run(
    spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array, *, reverse: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time; the states are the only residuals, whatever may be saved."""
    # Pallas takes longer to import than all of this library, and few users need it.
    from gru_jax._unroll.fused.tpu.kernels import make_kernels

    kernels = make_kernels(TPU_SPECS[spec.device_kind])
    kernels = with_transform_rules(kernels, INTERFACE, "tpu")
    return fused.run(spec, cell, inputs, h0, reverse=reverse, kernels=kernels)
