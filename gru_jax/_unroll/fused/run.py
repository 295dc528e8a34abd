"""A GRU run by a device's pair of fused kernels, which hold the weights for a whole sequence.

The kernels walk the sequence; what can be done for all steps at once is done around them: the
projection of the inputs ahead of the one, the recurrence's coefficients ahead of the other, and
the gradients of parameters and inputs after it. Gates are computed again from the states on the
way back, so that nothing but the states is kept.
"""

import math

import jax
import jax.numpy as jnp

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._autodiff.step_graph import Anatomy
from gru_jax._unroll import reference as scan
from gru_jax._unroll.backward.backward_pass import LARGE_BLOCK, walk_back
from gru_jax._unroll.backward.chunk import Recurrence, SweepCarry, Swept
from gru_jax._unroll.call_spec import Call, Memory
from gru_jax._unroll.fused.interface import Kernels
from gru_jax._unroll.masking import Steps, expand
from gru_jax._unroll.sharding import vary_alike
from gru_jax._unroll.xla.forward import Kept, Leaves, anatomy_of, initial_like, show
from gru_jax.cells.base import AffineCell, cast_params, dot, promote_params
from gru_jax.cells.gru import GRUParams
from gru_jax.typing import Array, DType

VERIFIED_PLATFORMS: tuple[str, ...] = ("gpu",)
"""Platforms on whose devices their kernels have run. On others they are taken by name alone."""

REDUCED = ("bfloat16", "BF16_BF16_F32")
"""What ``jax.default_matmul_precision`` is set to where float32 may be multiplied in bfloat16."""


def unsupported(call: Call) -> str | None:
    """Why no pair of kernels can serve a call, whatever the device; None where one may."""
    cell = call.cell
    if not isinstance(cell, GRUParams) or cell.reset != "after":
        what = 'reset="before"' if isinstance(cell, GRUParams) else type(cell).__name__
        return f'it runs a GRU with reset="after" and nothing else, and this is {what}'
    if not call.is_sized:
        return f"sizes must be known, and the inputs have shape {call.shape}"
    if call.dtype == jnp.float32 and call.precision not in REDUCED:
        return (
            "it multiplies in bfloat16, which float32 inputs have to ask for: "
            'with jax.default_matmul_precision("bfloat16"), or inputs in bfloat16'
        )
    if call.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it multiplies in bfloat16, and the inputs are {call.dtype}"
    if call.state_dtypes != (jnp.float32,):
        return f"it carries the state in float32, and h0 is {call.state_dtypes[0]}"
    if jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return "under a mesh with explicit axes a kernel has to be called within jax.shard_map"
    if call.platform not in VERIFIED_PLATFORMS and not call.is_named:
        return f"it has run on no {call.platform} yet: ask for it by name"
    if call.num_devices > 1 and not call.is_named:
        return (
            f"a kernel runs on one device, and the program may be spread over {call.num_devices}: "
            "call it within jax.shard_map, or ask for it by name"
        )
    return None


def run(
    cell: GRUParams,
    steps: Steps,
    state: Array,
    *,
    reverse: bool,
    kernels: Kernels,
    operands: DType = jnp.bfloat16,
) -> tuple[Array, Array]:
    """Runs a GRU over time.

    Args:
        cell: with ``reset="after"``.
        steps: any number of batch axes, none too.
        state: (*batch, H), in the dtype of gate arithmetic.
        reverse: the direction.
        kernels: what walks the sequence, :func:`~gru_jax._unroll.transform_rules.transformable`.
        operands: the dtype in which the kernels multiply.
    """
    time, *batch_shape, _ = steps.xs.shape
    if not time or not math.prod(batch_shape):
        return scan.run(cell, steps, state, reverse=reverse, memory=Memory(recompute=True))
    cell, steps, state = vary_alike((promote_params(cell), steps, state))
    # One batch axis, whatever came.
    steps = jax.tree.map(lambda part: _flatten(part, 1, batch_shape), steps)
    state = _flatten(state, 0, batch_shape)

    def function(cell: GRUParams, steps: Steps, state: Array) -> tuple[Array, Array]:
        dtype = steps.xs.dtype
        states, last = _walk(
            kernels, cell, steps, state, reverse=reverse, operands=operands, dtype=dtype
        )
        return last, show(cell, states, steps.valid, dtype)

    def forward(
        cell: GRUParams, steps: Steps, state: Array
    ) -> tuple[tuple[Array, Array], tuple[GRUParams, Steps, Array, list[Kept]]]:
        states, last = _walk(
            kernels, cell, steps, state, reverse=reverse, operands=operands, dtype=state.dtype
        )
        ys = show(cell, states, steps.valid, steps.xs.dtype)
        return (last, ys), (cell, steps, state, [Kept(states)])

    def sweep(
        anatomy: Anatomy,
        transposed: Leaves,
        recurrence: Recurrence,
        carry: SweepCarry,
        *,
        reverse: bool,
    ) -> Swept:
        del anatomy
        u_transposed = transposed[0].astype(operands)
        return _sweep(kernels, u_transposed, recurrence, carry, reverse=reverse)

    def pullback(
        residuals: tuple[GRUParams, Steps, Array, list[Kept]], cotangents: tuple[Array, Array]
    ) -> tuple[AffineCell, Steps, Array]:
        most = max(1, LARGE_BLOCK // state.size)
        return walk_back(
            residuals,
            cotangents,
            anatomy_of(*residuals[:3]),
            reverse=reverse,
            most_steps=most,
            sweep=sweep,
        )

    last, ys = custom_vjp_with_jvp(function, forward, pullback)(cell, steps, state)
    return last.reshape(*batch_shape, -1), ys.reshape(time, *batch_shape, -1)


def _flatten(array: Array, leading: int, batch_shape: list[int]) -> Array:
    """The batch axes, after ``leading`` others, made one."""
    rest = array.shape[leading + len(batch_shape) :]
    return array.reshape(*array.shape[:leading], math.prod(batch_shape), *rest)


def _walk(
    kernels: Kernels,
    cell: GRUParams,
    steps: Steps,
    state: Array,
    *,
    reverse: bool,
    operands: DType,
    dtype: DType,
) -> tuple[Array, Array]:
    """The states after each step in ``dtype``, and after the last that is read."""
    precise = cast_params(cell, steps.xs.dtype)
    b_hn = precise.b_hn
    return kernels.forward(
        precise.project(steps.xs),
        cell.w_h.astype(operands),
        jnp.zeros_like(state, shape=state.shape[-1:]) if b_hn is None else b_hn,
        state,
        initial_like(cell, state, state.shape[:-1]),
        steps.valid,
        steps.resets,
        reverse=reverse,
        dtype=dtype,
    )


def _sweep(
    kernels: Kernels,
    u_transposed: Array,
    recurrence: Recurrence,
    carry: SweepCarry,
    *,
    reverse: bool,
) -> Swept:
    """A ``Sweep`` by the kernel: a state, and one product with it."""
    (packed,), (passed,), d_states = recurrence.packed, recurrence.passed, recurrence.d_shown[0]
    (d_last,), d_initial = carry
    slopes, through, resets = packed[0], passed[0], recurrence.resets
    kept_slopes, kept_through = slopes, through
    if resets is not None:
        kept_slopes, kept_through = (
            jnp.where(expand(resets, part), jnp.zeros_like(part), part)
            for part in (slopes, through)
        )
    r, z, n = jnp.moveaxis(kept_slopes.astype(u_transposed.dtype), -2, 0)
    d, d_start = kernels.backward(
        d_states, kept_through, (r, z, n), u_transposed, d_last, reverse=reverse
    )
    if d_initial is not None and resets is not None:
        # What would have gone on to the state that was replaced goes to the one put in.
        sums = (slopes * d[..., None, :]).reshape(*d.shape[:-1], -1)
        d_put_in = through * d + dot(sums, u_transposed)
        d_put_in = jnp.where(expand(resets, d_put_in), d_put_in, jnp.zeros_like(d_put_in))
        d_initial = [d_initial[0] + d_put_in.sum(0)]
    return ([d_start], d_initial), {0: d}
