"""A GRU by one-block kernels for NVIDIA GPUs: compiled for them, interpreted, never run on one."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused.one_block.interface import matmul_dtype
from gru_jax._unroll.fused.run import reasons_of_all_kernels
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

NAME = "one-block"

MAX_HIDDEN_SIZE = 192
"""The largest size whose weights fit into the registers and the shared memory of a block."""

IS_VERIFIED = False
"""Whether the kernels have run on a device. If not, they are used only when requested."""

MIN_CAPABILITY = "8.0"
"""Ampere's, the first one that Pallas for GPU supports."""

A100_MULTIPROCESSORS = 108
"""Taken where a device does not tell how many it has."""

MIN_JAX = (0, 11, 1)
"""0.11.0 has ``plgpu.mma``, too, but lowering the forward kernel did not end within minutes."""

PRECISIONS = (
    None,
    "default",
    "fastest",
    "tensorfloat32",
    "TF32_TF32_F32",
    "bfloat16",
    "BF16_BF16_F32",
)
"""Values of ``jax.default_matmul_precision`` that permit float32 matmuls with 10 bits."""


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why these kernels do not support a call; empty if they do."""
    reasons = []
    cell = spec.cell
    if not _is_capable(spec):
        device = spec.device_kind if spec.platform == "gpu" else f"a {spec.platform.upper()}"
        reasons.append(
            "it needs an NVIDIA GPU of compute capability 8.0 or newer, "
            f"but the default device is {device}"
        )
    if jax.__version_info__ < MIN_JAX:
        reasons.append(f"it needs jax 0.11.1 or newer, and this is {jax.__version__}")
    elif importlib.util.find_spec("absl") is None:
        reasons.append("it needs absl-py, which jax does not install: pip install absl-py")
    if not IS_VERIFIED and not spec.is_explicit:
        reasons.append("it is not yet verified on this device, so it must be requested explicitly")
    reasons += reasons_of_all_kernels(spec)
    if type(cell) is GRUParams and cell.hidden_size > MAX_HIDDEN_SIZE:
        reasons.append(f"the hidden size must be at most {MAX_HIDDEN_SIZE}, got {cell.hidden_size}")
    if spec.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        reasons.append(f"inputs must be float32, bfloat16 or float16, got {spec.dtype}")
    elif spec.dtype == jnp.float32 and spec.precision not in PRECISIONS:
        reasons.append(
            "float32 inputs are multiplied with 10 bits of mantissa, and "
            f'jax.default_matmul_precision is "{spec.precision}"'
        )
    return reasons


def run(
    spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array, *, reverse: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time; what is saved does not depend on ``spec.recompute``."""
    # Pallas takes longer to import than all of this library, and few users need it.
    from gru_jax._unroll.fused.one_block import gru

    return gru.run(spec, cell, inputs, h0, reverse=reverse, kernels=_kernels(spec.device))


def run_both(
    spec: CallSpec,
    cells: Sequence[GRUParams],
    inputs: Sequence[ScanInputs],
    h0: Sequence[Array],
    *,
    reverse: bool,
) -> list[tuple[Array, Array]]:
    """Runs the two directions of a layer, the first in the direction ``reverse``, in one launch."""
    from gru_jax._unroll.fused.one_block import gru

    return gru.run_both(spec, cells, inputs, h0, reverse=reverse, kernels=_kernels(spec.device))


def describe(spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array) -> list[str]:
    """What :func:`run` does with a call, a line for each decision."""
    del cell, inputs, h0
    operands = jnp.dtype(matmul_dtype(spec.dtype)).name
    return [
        f"forward pass: the one-block kernel for all steps, operands in {operands}",
        *([] if IS_VERIFIED else ["not yet verified on this device"]),
        "saved for the backward pass: the states, and preactivations in float16",
        "backward pass: the one-block kernel for all steps, gradients of parameters after it",
        "under vmap over parameters: the same kernels, in forward mode: lax.scan",
        "the directions of a bidirectional layer: one launch of the same kernels",
    ]


def _is_capable(spec: CallSpec) -> bool:
    if spec.platform != "gpu" or not spec.device_kind.startswith("NVIDIA"):
        return False
    capability = getattr(spec.device, "compute_capability", MIN_CAPABILITY)
    return float(capability) >= float(MIN_CAPABILITY)


def _kernels(device: Any) -> Any:
    from gru_jax._unroll.fused.one_block.kernels import INTERFACE, make_kernels
    from gru_jax._unroll.fused.transforms import with_transform_rules

    # The number decides how long a call takes, not what it returns.
    num_multiprocessors = getattr(device, "core_count", A100_MULTIPROCESSORS)
    return with_transform_rules(make_kernels(num_multiprocessors), INTERFACE, "cuda")
