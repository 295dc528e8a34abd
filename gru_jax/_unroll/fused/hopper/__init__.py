"""A GRU by fused kernels for Hopper GPUs, checked on an H200."""

import importlib.util

import jax

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.reference_kernels import INTERFACE
from gru_jax._unroll.fused.transforms import with_transform_rules
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

NAME = "Hopper"
# Words in the names of devices of compute capability 9.0, whose instructions the kernels use.
HOPPER = ("H100", "H200", "H800", "H20", "GH200")
# The sizes whose weights fit into the shared memory of a cluster of two to eight CTAs.
HIDDEN_SIZES = (128, 256, 384, 512)
# The oldest version of JAX with which the kernels have been compiled.
MIN_JAX = (0, 10, 1)

describe = fused.describe


def targets(spec: CallSpec) -> bool:
    """Whether the kernels are made for the device of a call."""
    return spec.platform == "gpu" and bool(set(HOPPER) & set(spec.device_kind.split()))


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why these kernels do not support a call; empty if they do."""
    reasons = []
    if spec.platform != "gpu":
        platform = spec.platform.upper()
        reasons.append(f"it needs a Hopper GPU, but the default device is a {platform}")
    elif not targets(spec):
        words, kind = ", ".join(HOPPER), spec.device_kind
        reasons.append(f"it needs a Hopper GPU ({words}), but the default device is {kind}")
    elif jax.__version_info__ < MIN_JAX:
        reasons.append(f"it needs jax 0.10.1 or newer, and this is {jax.__version__}")
    elif importlib.util.find_spec("absl") is None:
        reasons.append("it needs absl-py, which jax does not install: pip install absl-py")
    reasons += fused.unsupported_reasons(spec)
    if type(spec.cell) is GRUParams and spec.cell.hidden_size not in HIDDEN_SIZES:
        sizes = ", ".join(map(str, HIDDEN_SIZES))
        reasons.append(f"the hidden size must be one of {sizes}, got {spec.cell.hidden_size}")
    return reasons


def run(
    spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array, *, reverse: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time; the states are the only residuals, whatever may be saved."""
    # Pallas takes longer to import than all of this library, and few users need it.
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    kernels = with_transform_rules(make_kernels(), INTERFACE, "cuda")
    return fused.run(spec, cell, inputs, h0, reverse=reverse, kernels=kernels)
