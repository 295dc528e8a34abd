"""A GRU by fused kernels for NVIDIA GPUs: those for Hopper, or the one-block kernels."""

import math
from collections.abc import Sequence
from types import ModuleType

import jax

from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused import hopper, one_block
from gru_jax._unroll.masking import ScanInputs
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array

targets = hopper.targets
run_both = one_block.run_both


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why no kernel for NVIDIA GPUs supports a call; empty if one does."""
    of_hopper, of_one_block = (kernels.unsupported_reasons(spec) for kernels in (hopper, one_block))
    if not of_hopper or not of_one_block:
        return []
    of_both = [reason for reason in of_hopper if reason in of_one_block]
    return [
        *of_both,
        *(f"Hopper kernels: {reason}" for reason in of_hopper if reason not in of_both),
        *(f"one-block kernels: {reason}" for reason in of_one_block if reason not in of_both),
    ]


def run(
    spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array, *, reverse: bool
) -> tuple[Array, Array]:
    """Runs a GRU over time."""
    return kernels_for(spec).run(spec, cell, inputs, h0, reverse=reverse)


def supports_both(specs: Sequence[CallSpec]) -> bool:
    """Whether :func:`run_both` runs a layer's two calls, which differ in cell and direction."""
    first, second = (jax.tree.map(jax.typeof, spec.cell) for spec in specs)
    return (
        all(kernels_for(spec) is one_block for spec in specs)
        and math.prod(specs[0].shape[:-1]) > 0
        and jax.tree.structure(first) == jax.tree.structure(second)
        and jax.tree.leaves(first) == jax.tree.leaves(second)
    )


def describe(spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array) -> list[str]:
    """Which kernels run a call, and what they do with it, a line for each decision."""
    kernels = kernels_for(spec)
    return [f"the {kernels.NAME} kernels", *kernels.describe(spec, cell, inputs, h0)]


def kernels_for(spec: CallSpec) -> ModuleType:
    """The kernels that run a call: those for Hopper, which have run on one, if they can."""
    return one_block if hopper.unsupported_reasons(spec) else hopper
