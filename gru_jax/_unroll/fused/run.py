"""A GRU run by a device's fused kernels, which hold the weights for a whole sequence.

The kernels contain the sequential part alone; what can be computed for all steps at once is
computed outside them. The backward pass recomputes the gates from the states, the only residuals.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._autodiff.step_graph import StepGraph
from gru_jax._unroll import reference
from gru_jax._unroll.backward import adjoint_scan as adjoint
from gru_jax._unroll.backward import backward_pass as backward
from gru_jax._unroll.backward.residuals import Residuals
from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.carry import MAP_AXES, pvary_to_common_axes, reset_state_like
from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs, FusedKernels
from gru_jax._unroll.masking import ScanInputs, broadcast_mask, mask_outputs
from gru_jax._unroll.partition import partition_derivative
from gru_jax.cells.base import AffineCell
from gru_jax.cells.gru import GRUParams
from gru_jax.cells.precision import cast_params
from gru_jax.typing import Array, DType

Saved = tuple[GRUParams, ScanInputs, Array, Residuals]

# Platforms whose kernels have run on a device. Others are used only when requested explicitly.
VERIFIED_PLATFORMS: tuple[str, ...] = ("gpu",)
# Values of jax.default_matmul_precision that permit float32 matmuls in bfloat16.
BF16_MATMUL_PRECISIONS = ("bfloat16", "BF16_BF16_F32")


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why no kernels of this module support a call; empty if some may."""
    reasons = reasons_of_all_kernels(spec)
    if spec.dtype == jnp.float32 and spec.precision not in BF16_MATMUL_PRECISIONS:
        reasons.append(
            'float32 inputs require jax.default_matmul_precision("bfloat16") because the kernel '
            "multiplies in bfloat16, or bfloat16 inputs"
        )
    elif spec.dtype not in (jnp.float32, jnp.bfloat16):
        reasons.append(f"inputs must be bfloat16 or float32, got {spec.dtype}")
    return reasons


def reasons_of_all_kernels(spec: CallSpec) -> list[str]:
    """Every reason why no fused kernel of any device supports a call."""
    reasons, cell = [], spec.cell
    if type(cell) is not GRUParams:
        reasons.append(f'it supports only GRUParams with reset="after", got {type(cell).__name__}')
    elif cell.reset != "after":
        reasons.append(
            f'it supports only reset="after", got reset="{cell.reset}", '
            "whose step has two matmuls in sequence"
        )
    if not spec.has_static_shape:
        reasons.append(f"sizes must be known, got inputs of shape {spec.shape}")
    if others := [dtype for dtype in spec.state_dtypes if dtype != jnp.float32]:
        reasons.append(f"the state must be float32, got {others[0]}")
    if spec.has_explicit_axes:
        reasons.append(
            "it cannot be mapped by vmap over an axis that is sharded over explicit axes of a "
            "mesh, which unroll takes as an axis of the batch"
        )
    elif spec.is_tensor_parallel:
        reasons.append("parameters are sharded over axes of a mesh, and it needs all of them")
    elif spec.num_devices > 1 and not spec.is_partitioned:
        reasons.append(
            "XLA may partition it over the automatic axes of a mesh whose other axes are manual"
        )
    return reasons


def run(
    spec: CallSpec,
    cell: GRUParams,
    inputs: ScanInputs,
    h0: Array,
    *,
    reverse: bool,
    kernels: FusedKernels,
    matmul_dtype: DType = jnp.bfloat16,
) -> tuple[Array, Array]:
    """Runs a GRU with ``reset="after"`` over time.

    ``h0`` is float32 (float64 in tests). For ``kernels`` see
    :func:`~gru_jax._unroll.fused.transforms.with_transform_rules`; ``matmul_dtype`` is of the
    operands of their matmuls.
    """
    time, *batch_shape, _ = inputs.xs.shape
    if not time or not math.prod(batch_shape):
        return reference.run(spec, cell, inputs, h0, reverse=reverse)
    cell, inputs, h0 = pvary_to_common_axes((cell, inputs, h0))
    # Kernels have one batch axis.
    inputs = jax.tree.map(lambda leaf: _flatten_batch(leaf, 1, batch_shape), inputs)
    h0 = _flatten_batch(h0, 0, batch_shape)

    def run_kernel(
        cell: GRUParams, inputs: ScanInputs, h0: Array, states_dtype: DType
    ) -> tuple[tuple[Array, Array], Array]:
        compute_cell = cast_params(cell, inputs.xs.dtype)
        b_hn = compute_cell.b_hn
        args = ForwardArgs(
            projected=compute_cell.project(inputs.xs),
            w_h=cell.w_h.astype(matmul_dtype),
            b_hn=jnp.zeros_like(h0, shape=h0.shape[-1:]) if b_hn is None else b_hn,
            h0=h0,
            reset_state=reset_state_like(cell, inputs, h0),
            valid=inputs.valid,
            resets=inputs.resets,
        )
        states, h_last = kernels.forward(args, reverse=reverse, dtype=states_dtype)
        ys = mask_outputs(cell.output(states), inputs.valid, inputs.xs.dtype)
        return (h_last, ys), states

    def function(cell: GRUParams, inputs: ScanInputs, h0: Array) -> tuple[Array, Array]:
        return run_kernel(cell, inputs, h0, inputs.xs.dtype)[0]

    def forward(
        cell: GRUParams, inputs: ScanInputs, h0: Array
    ) -> tuple[tuple[Array, Array], Saved]:
        outputs, states = run_kernel(cell, inputs, h0, h0.dtype)
        return outputs, (cell, inputs, h0, Residuals(states))

    def pullback(
        saved: Saved, cotangents: tuple[Array, Array]
    ) -> tuple[AffineCell, ScanInputs, Array]:
        assert isinstance(spec.step_graph, StepGraph), "a GRU keeps the rule of AffineCell"
        max_chunk_steps = max(1, backward.MAX_CHUNK_ELEMENTS // h0.size)
        scan = functools.partial(_adjoint_scan, kernels, matmul_dtype)
        options = backward.BackwardOptions(spec.step_graph, reverse, max_chunk_steps, scan)
        return backward.backward_pass(saved, cotangents, options)

    functions: tuple[Any, Any, Any] = (function, forward, pullback)
    if spec.is_partitioned:
        functions = partition_derivative(*functions, rank=1)
    h_last, ys = custom_vjp_with_jvp(*functions, map_axes=MAP_AXES)(cell, inputs, h0)
    return h_last.reshape(*batch_shape, -1), ys.reshape(time, *batch_shape, -1)


def describe(spec: CallSpec, cell: GRUParams, inputs: ScanInputs, h0: Array) -> list[str]:
    """What :func:`run` does with a call, a line for each decision."""
    del spec, cell, inputs, h0
    return [
        "forward pass: one kernel for all steps, inputs projected before it",
        "saved for the backward pass: the states; gates are recomputed",
        "backward pass: one kernel for the adjoint recurrence, gradients of parameters after it",
        "under vmap over parameters, in forward mode and in second derivatives: lax.scan",
    ]


def _flatten_batch(array: Array, num_leading: int, batch_shape: list[int]) -> Array:
    """The array with its batch axes, which follow ``num_leading`` others, as one axis."""
    trailing = array.shape[num_leading + len(batch_shape) :]
    return array.reshape(*array.shape[:num_leading], math.prod(batch_shape), *trailing)


def _adjoint_scan(
    kernels: FusedKernels,
    matmul_dtype: DType,
    graph: StepGraph,
    weights_t: adjoint.Leaves,
    recurrence: adjoint.AdjointRecurrence,
    d_last: adjoint.Leaves,
    *,
    reverse: bool,
) -> adjoint.AdjointResult:
    """An ``AdjointScan`` by the kernel: a GRU has one state leaf, and one matmul in its step."""
    del graph
    w_h_t = weights_t[0].astype(matmul_dtype)
    (by_output,), (by_leaf,), d_from_outputs, resets = recurrence
    gate_jacobian, state_jacobian = by_output[0], by_leaf[0]

    # A step that resets passes nothing on to the state before it.
    def unless_reset(jacobian: Array) -> Array:
        if resets is None:
            return jacobian
        return jnp.where(broadcast_mask(resets, jacobian), jnp.zeros_like(jacobian), jacobian)

    r, z, n = jnp.moveaxis(unless_reset(gate_jacobian).astype(w_h_t.dtype), -2, 0)
    masked_state = unless_reset(state_jacobian)
    args = BackwardArgs(d_from_outputs[0], masked_state, (r, z, n), w_h_t, d_last[0])
    d, d_h0 = kernels.backward(args, reverse=reverse)
    return [d_h0], {0: d}
