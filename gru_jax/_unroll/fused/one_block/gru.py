"""A GRU run by the one-block kernels.

Everything that can be computed for all steps at once is computed outside of them: the input
projection before the forward kernel, and the gradients of parameters and inputs after the backward
kernel.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._unroll import reference
from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.carry import MAP_AXES, pvary_to_common_axes
from gru_jax._unroll.fused.interface import pack_flags
from gru_jax._unroll.fused.one_block.interface import BackwardArgs, ForwardArgs
from gru_jax._unroll.fused.one_block.kernels import Kernels
from gru_jax._unroll.masking import ScanInputs, mask_outputs, tree_where
from gru_jax._unroll.partition import partition_derivative
from gru_jax.cells.gru import GRUParams
from gru_jax.cells.linear import add_bias, dot
from gru_jax.cells.precision import cast_params
from gru_jax.typing import Array

PADDED_SIZES = (64, 128, 192)
"""Hidden sizes of the kernels. Units of padding have zero parameters, so they stay exactly 0."""


class Saved(NamedTuple):
    """What the forward pass saves: arguments, states (T, B, H), preactivations (T, B, 4H)."""

    cell: GRUParams
    inputs: ScanInputs
    h0: Array
    reverse: Array
    states: Array
    preactivations: Array


def run(
    spec: CallSpec,
    cell: GRUParams,
    inputs: ScanInputs,
    h0: Array,
    *,
    reverse: bool | Array,
    kernels: Kernels,
) -> tuple[Array, Array]:
    """Runs a GRU over time.

    Args:
        spec: of the call.
        cell: with ``reset="after"`` and no more hidden units than the last of ``PADDED_SIZES``.
        inputs: any number of batch axes.
        h0: (*batch, H), float32.
        reverse: the direction; an array for :func:`run_both`, which maps over it.
        kernels: see :func:`~gru_jax._unroll.fused.transforms.with_transform_rules`.
    """
    time, *batch_shape, _ = inputs.xs.shape
    if not time or not math.prod(batch_shape):
        return reference.run(spec, cell, inputs, h0, reverse=bool(reverse))
    reverse = jnp.asarray(reverse, jnp.int32)
    cell, inputs, h0, reverse = pvary_to_common_axes((cell, inputs, h0, reverse))
    inputs = jax.tree.map(lambda leaf: _join_axes(leaf, 1, len(batch_shape)), inputs)
    hidden = cell.hidden_size
    cell = _pad_units(cell)
    missing = cell.hidden_size - hidden
    h0 = jnp.pad(_join_axes(h0, 0, len(batch_shape)), [(0, 0), (0, missing)])

    def run_kernel(
        cell: GRUParams, inputs: ScanInputs, h0: Array, reverse: Array, *, save: bool
    ) -> tuple[tuple[Array, Array], Any]:
        compute_cell = cast_params(cell, inputs.xs.dtype)
        zeros = jnp.zeros_like(h0, shape=h0.shape[-1:])
        args = ForwardArgs(
            projected=_project(compute_cell, inputs.xs),
            w_h=compute_cell.w_h,
            b_hn=zeros if compute_cell.b_hn is None else compute_cell.b_hn,
            h0=h0,
            reset_state=zeros if compute_cell.h0 is None else compute_cell.h0,
            reverse=reverse,
            flags=pack_flags(inputs.valid, inputs.resets),
        )
        result = kernels.forward(_add_copies(args), dtype=inputs.xs.dtype, save=save)
        states, h_last, preactivations = _first_copy(result)
        ys = mask_outputs(states, inputs.valid, inputs.xs.dtype)
        return (h_last, ys), (states, preactivations)

    def function(
        cell: GRUParams, inputs: ScanInputs, h0: Array, reverse: Array
    ) -> tuple[Array, Array]:
        return run_kernel(cell, inputs, h0, reverse, save=False)[0]

    def forward(
        cell: GRUParams, inputs: ScanInputs, h0: Array, reverse: Array
    ) -> tuple[tuple[Array, Array], Saved]:
        outputs, residuals = run_kernel(cell, inputs, h0, reverse, save=True)
        return outputs, Saved(cell, inputs, h0, reverse, *residuals)

    def pullback(
        saved: Sequence[Any], cotangents: tuple[Array, Array]
    ) -> tuple[GRUParams, ScanInputs, Array, Array]:
        saved = Saved(*saved)
        cell, inputs = saved.cell, saved.inputs
        d_h_last, d_ys = cotangents
        compute_cell = cast_params(cell, inputs.xs.dtype)
        states_before = _states_before(saved)
        args = BackwardArgs(
            d_ys=d_ys,
            states_before=states_before,
            preactivations=saved.preactivations,
            w_h=compute_cell.w_h,
            d_h_last=d_h_last,
            reverse=saved.reverse,
            flags=pack_flags(inputs.valid, inputs.resets),
        )
        d, d_h0, d_reset = _first_copy(kernels.backward(_add_copies(args)))
        # Matmuls take the packed array whole: a part of it would have to be copied.
        gates = 3 * cell.hidden_size
        d_w_h = _contract_steps(states_before, d)
        rz, end = 2 * cell.hidden_size, 4 * cell.hidden_size
        d_bias = d.sum((0, 1), dtype=jnp.float32)
        w_x = jnp.pad(compute_cell.w_x, [(0, 0), (0, cell.hidden_size)])
        d_cell = dataclasses.replace(
            cell,
            w_x=_contract_steps(inputs.xs, d)[:, :gates],
            w_h=jnp.concatenate([d_w_h[:, :rz], d_w_h[:, gates:end]], axis=-1),
            b=None if cell.b is None else d_bias[:gates],
            b_hn=None if cell.b_hn is None else d_bias[gates:end],
            h0=None if cell.h0 is None else _sum_sequences(d_reset, cell.h0),
        )
        d_xs = dot(d, w_x.T).astype(inputs.xs.dtype)
        return d_cell, ScanInputs(d_xs, inputs.valid, inputs.resets), d_h0, saved.reverse

    functions: tuple[Any, Any, Any] = (function, forward, pullback)
    if spec.is_partitioned:
        functions = partition_derivative(*functions, rank=1, others=1)
    h_last, ys = custom_vjp_with_jvp(*functions, map_axes=MAP_AXES)(cell, inputs, h0, reverse)
    h_last, ys = h_last[..., :hidden], ys[..., :hidden]
    return h_last.reshape(*batch_shape, hidden), ys.reshape(time, *batch_shape, hidden)


def run_both(
    spec: CallSpec,
    cells: Sequence[GRUParams],
    inputs: Sequence[ScanInputs],
    h0: Sequence[Array],
    *,
    reverse: bool,
    kernels: Kernels,
) -> list[tuple[Array, Array]]:
    """Runs two GRUs over the same inputs in opposite directions, as copies in one launch.

    Args:
        spec: of both calls.
        cells: two, with parameters of the same shapes.
        inputs: of each; they differ in ``resets`` alone.
        h0: of each.
        reverse: the direction of the first.
        kernels: as for :func:`run`.
    """

    def run_one(cell: GRUParams, resets: Array | None, h0: Array, reverse: Array) -> Any:
        own_inputs = inputs[0]._replace(resets=resets)
        return run(spec, cell, own_inputs, h0, reverse=reverse, kernels=kernels)

    resets = [each.resets for each in inputs]
    directions = [jnp.array(reverse), jnp.array(not reverse)]
    stacked = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *zip(cells, resets, h0, directions, strict=True)
    )
    h_last, ys = jax.vmap(run_one)(*stacked)
    return [(h_last[direction], ys[direction]) for direction in range(2)]


def _project(cell: GRUParams, xs: Array) -> Array:
    """``cell.project`` with the gates in one array."""
    return add_bias(dot(xs, cell.w_x), cell.b)


def _pad_units(cell: GRUParams) -> GRUParams:
    """The cell with zero parameters for units up to one of ``PADDED_SIZES``."""
    hidden = cell.hidden_size
    missing = min(size for size in PADDED_SIZES if size >= hidden) - hidden

    def pad(array: Array | None, *, gates: int, rows: int = 0) -> Array | None:
        """Pads each gate's part of the last axis, and the first axis by ``rows``."""
        if array is None or not missing:
            return array
        split = array.reshape(*array.shape[:-1], gates, hidden)
        widths = [(0, 0)] * split.ndim
        widths[-1] = (0, missing)
        if rows:
            widths[0] = (0, rows)
        padded = jnp.pad(split, widths)
        return padded.reshape(*padded.shape[:-2], -1)

    return dataclasses.replace(
        cell,
        w_x=pad(cell.w_x, gates=3),
        w_h=pad(cell.w_h, gates=3, rows=missing),
        b=pad(cell.b, gates=3),
        b_hn=pad(cell.b_hn, gates=1),
        h0=pad(cell.h0, gates=1),
    )


def _states_before(saved: Saved) -> Array:
    """The state that each step reads (T, B, H), after a reset."""
    first = saved.h0.astype(saved.states.dtype)[None]
    states = jnp.where(
        saved.reverse,
        jnp.concatenate([saved.states[1:], first]),
        jnp.concatenate([first, saved.states[:-1]]),
    )
    resets = saved.inputs.resets
    if resets is None:
        return states
    reset_state = saved.cell.initial_state(states.shape[1:2]).astype(states.dtype)
    return tree_where(resets, jnp.broadcast_to(reset_state, states.shape), states)


def _contract_steps(left: Array, right: Array) -> Array:
    """``left^T right`` of arrays (T, B, ...) over steps and sequences, in float32."""
    left, right = (array.reshape(-1, array.shape[-1]) for array in (left, right))
    return dot(left.T, right)


def _sum_sequences(d_reset: Array | None, like: Array) -> Array:
    return jnp.zeros_like(like) if d_reset is None else d_reset.sum(0)


def _join_axes(array: Array, start: int, count: int) -> Array:
    """The array with ``count`` axes from ``start`` on as one."""
    size = math.prod(array.shape[start : start + count])
    return array.reshape(*array.shape[:start], size, *array.shape[start + count :])


def _add_copies(args: Any) -> Any:
    """Arguments of one copy, with an axis for it; :func:`jax.vmap` makes more of them."""
    return jax.tree.map(lambda leaf: leaf[None], args)


def _first_copy(result: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], result)
