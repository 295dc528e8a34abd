"""A GRU run by a device's fused kernels, which hold the weights for a whole sequence.

The kernels contain the sequential part alone. Everything that can be computed for all steps at once
is computed outside them: the input projection before the forward kernel, the Jacobians before the
backward kernel, and the gradients of parameters and inputs after it. The backward pass recomputes
the gates from the states, which are the only residuals.
"""

import functools
import math

import jax
import jax.numpy as jnp

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._autodiff.step_graph import Anatomy
from gru_jax._unroll import reference
from gru_jax._unroll.backward.backward_pass import LARGE_BLOCK, walk_back
from gru_jax._unroll.backward.chunk import Recurrence, SweepCarry, Swept
from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs, FusedKernels
from gru_jax._unroll.masking import Steps, expand
from gru_jax._unroll.sharding import vary_alike
from gru_jax._unroll.xla.forward import Kept, Leaves, anatomy_of, initial_like, show
from gru_jax.cells.base import AffineCell, cast_params, dot, promote_params
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array, DType

SavedValues = tuple[GRUParams, Steps, Array, list[Kept]]

VERIFIED_PLATFORMS: tuple[str, ...] = ("gpu",)
"""Platforms whose kernels have run on a device. Others are used only when requested explicitly."""

BF16_MATMUL_PRECISIONS = ("bfloat16", "BF16_BF16_F32")
"""Values of ``jax.default_matmul_precision`` that permit float32 matmuls in bfloat16."""


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why no device's kernels support a call; empty if some may."""
    reasons = []
    cell = spec.cell
    if type(cell) is not GRUParams:
        reasons.append(f'it supports only GRUParams with reset="after", got {type(cell).__name__}')
    elif cell.reset != "after":
        reasons.append(f'it supports only reset="after", got reset="{cell.reset}"')
    if not spec.has_static_shape:
        reasons.append(f"sizes must be known, got inputs of shape {spec.shape}")
    if spec.dtype == jnp.float32 and spec.precision not in BF16_MATMUL_PRECISIONS:
        reasons.append(
            'float32 inputs require jax.default_matmul_precision("bfloat16") because the kernel '
            "multiplies in bfloat16; alternatively pass bfloat16 inputs"
        )
    elif spec.dtype not in (jnp.float32, jnp.bfloat16):
        reasons.append(f"inputs must be bfloat16 or float32, got {spec.dtype}")
    if others := [dtype for dtype in spec.state_dtypes if dtype != jnp.float32]:
        reasons.append(f"the state must be float32, got {others[0]}")
    if jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        reasons.append("under a mesh with explicit axes it must be called within jax.shard_map")
    if spec.num_devices > 1 and not spec.is_explicit:
        reasons.append(
            f"it runs on one device, and XLA may partition the program over {spec.num_devices}: "
            "call it within jax.shard_map, or request it explicitly"
        )
    return reasons


def run(
    spec: CallSpec,
    cell: GRUParams,
    inputs: Steps,
    h0: Array,
    *,
    reverse: bool,
    kernels: FusedKernels,
    matmul_dtype: DType = jnp.bfloat16,
) -> tuple[Array, Array]:
    """Runs a GRU over time.

    Args:
        spec: of the call.
        cell: with ``reset="after"``.
        inputs: any number of batch axes.
        h0: (*batch, H), float32 (float64 in tests).
        reverse: the direction.
        kernels: see :func:`~gru_jax._unroll.fused.transforms.with_transform_rules`.
        matmul_dtype: the dtype of the operands of the kernels' matmuls.
    """
    time, *batch_shape, _ = inputs.xs.shape
    if not time or not math.prod(batch_shape):
        return reference.run(spec, cell, inputs, h0, reverse=reverse)
    cell, inputs, h0 = vary_alike((promote_params(cell), inputs, h0))
    # Kernels have one batch axis.
    inputs = jax.tree.map(lambda leaf: _flatten_batch(leaf, 1, batch_shape), inputs)
    h0 = _flatten_batch(h0, 0, batch_shape)

    def run_kernel(
        cell: GRUParams, inputs: Steps, h0: Array, states_dtype: DType
    ) -> tuple[tuple[Array, Array], Array]:
        compute_cell = cast_params(cell, inputs.xs.dtype)
        b_hn = compute_cell.b_hn
        args = ForwardArgs(
            projected=compute_cell.project(inputs.xs),
            w_h=cell.w_h.astype(matmul_dtype),
            b_hn=jnp.zeros_like(h0, shape=h0.shape[-1:]) if b_hn is None else b_hn,
            h0=h0,
            reset_state=initial_like(cell, h0, h0.shape[:-1]),
            valid=inputs.valid,
            resets=inputs.resets,
        )
        states, h_last = kernels.forward(args, reverse=reverse, dtype=states_dtype)
        return (h_last, show(cell, states, inputs.valid, inputs.xs.dtype)), states

    def function(cell: GRUParams, inputs: Steps, h0: Array) -> tuple[Array, Array]:
        return run_kernel(cell, inputs, h0, inputs.xs.dtype)[0]

    def forward(
        cell: GRUParams, inputs: Steps, h0: Array
    ) -> tuple[tuple[Array, Array], SavedValues]:
        outputs, states = run_kernel(cell, inputs, h0, h0.dtype)
        return outputs, (cell, inputs, h0, [Kept(states)])

    def pullback(
        saved: SavedValues, cotangents: tuple[Array, Array]
    ) -> tuple[AffineCell, Steps, Array]:
        return walk_back(
            saved,
            cotangents,
            anatomy_of(*saved[:3]),
            reverse=reverse,
            most_steps=max(1, LARGE_BLOCK // h0.size),
            sweep=functools.partial(_adjoint_scan, kernels, matmul_dtype),
        )

    h_last, ys = custom_vjp_with_jvp(function, forward, pullback)(cell, inputs, h0)
    return h_last.reshape(*batch_shape, -1), ys.reshape(time, *batch_shape, -1)


def _flatten_batch(array: Array, num_leading: int, batch_shape: list[int]) -> Array:
    """The array with its batch axes, which follow ``num_leading`` others, as one axis."""
    trailing = array.shape[num_leading + len(batch_shape) :]
    return array.reshape(*array.shape[:num_leading], math.prod(batch_shape), *trailing)


def _adjoint_scan(
    kernels: FusedKernels,
    matmul_dtype: DType,
    anatomy: Anatomy,
    transposed: Leaves,
    recurrence: Recurrence,
    carry: SweepCarry,
    *,
    reverse: bool,
) -> Swept:
    """A ``Sweep`` by the backward kernel: a GRU has one state leaf, and one matmul in its step."""
    del anatomy
    w_h_t = transposed[0].astype(matmul_dtype)
    (packed,), (passed,), d_ys = recurrence.packed, recurrence.passed, recurrence.d_shown[0]
    (d_h_last,), d_reset_state = carry
    gate_jacobian, state_jacobian, resets = packed[0], passed[0], recurrence.resets
    # A step that resets passes nothing on to the state before it.
    masked_gate, masked_state = gate_jacobian, state_jacobian
    if resets is not None:
        masked_gate, masked_state = (
            jnp.where(expand(resets, jacobian), jnp.zeros_like(jacobian), jacobian)
            for jacobian in (gate_jacobian, state_jacobian)
        )
    r, z, n = jnp.moveaxis(masked_gate.astype(w_h_t.dtype), -2, 0)
    args = BackwardArgs(d_ys, masked_state, (r, z, n), w_h_t, d_h_last)
    d, d_h0 = kernels.backward(args, reverse=reverse)
    if d_reset_state is not None and resets is not None:
        d_preactivations = (gate_jacobian * d[..., None, :]).reshape(*d.shape[:-1], -1)
        d_previous = state_jacobian * d + dot(d_preactivations, w_h_t)
        d_previous = jnp.where(expand(resets, d_previous), d_previous, jnp.zeros_like(d_previous))
        d_reset_state = [d_reset_state[0] + d_previous.sum(0)]
    return ([d_h0], d_reset_state), {0: d}
