"""The implementation ``"xla"``: a loop with a custom derivative, fast where XLA compiles loops.

The loop finds the gradients of the states only; all else is computed for many steps at once,
outside of it. ``README.md`` of the package above has the derivation.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._autodiff.copies import run_copies_in_turn
from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._autodiff.step_graph import StepGraph, run_step
from gru_jax._unroll import reference
from gru_jax._unroll.backward import backward_pass as backward
from gru_jax._unroll.backward.adjoint_scan import ScanConsts, ScanFn, adjoint_scan, lax_scan
from gru_jax._unroll.backward.backward_pass import BackwardOptions
from gru_jax._unroll.backward.residuals import Residuals
from gru_jax._unroll.call_spec import CallSpec
from gru_jax._unroll.carry import MAP_AXES, batch_shape_of, reset_state_like, step_avals
from gru_jax._unroll.chunks import divisor_near, run_in_chunks
from gru_jax._unroll.masking import ScanInputs, mask_outputs, tree_where
from gru_jax._unroll.partition import partition_derivative
from gru_jax._unroll.shards import Shards, unshard
from gru_jax._unroll.xla.concurrent_scan import add_dependency, concurrent_scan, concurrent_scan_fn
from gru_jax._unroll.xla.schedule import (
    UNSHARDED,
    CopySchedule,
    Schedule,
    Sizes,
    schedule,
    schedule_any_size,
)
from gru_jax._unroll.xla.tuning import count_cores, tuning_for
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import affine
from gru_jax.cells.precision import cast_like, cast_params, promote_state
from gru_jax.typing import Array, State

Saved = tuple[AffineCell, ScanInputs, State, Residuals]


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Why this implementation does not support a call; empty if it does."""
    return [spec.step_graph] if isinstance(spec.step_graph, str) else []


def run(
    spec: CallSpec, cell: AffineCell, inputs: ScanInputs, h0: State, *, reverse: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time."""
    if _is_empty(inputs, h0):
        return reference.run(spec, cell, inputs, h0, reverse=reverse)
    graph, tuning = spec.step_graph, tuning_for(spec.platform)
    assert isinstance(graph, StepGraph), "unsupported otherwise"
    plan = make_schedule(spec, cell, inputs, h0)
    scan_steps_of = functools.partial(forward_scan, graph=graph, reverse=reverse)

    def run_saving(
        cell: AffineCell, inputs: ScanInputs, h0: State, shards: Shards, **options: Any
    ) -> tuple[tuple[State, Array], Saved]:
        """The last state and the outputs, and what the backward pass needs."""
        if shards == UNSHARDED:
            h_last, residuals = scan_steps_of(cell, inputs, h0, **options)
            ys = mask_outputs(cell.output(residuals.states), inputs.valid, inputs.xs.dtype)
            return (h_last, ys), (cell, inputs, h0, residuals)
        done = jnp.int32(0)

        def scan_fn(body: Any, consts: Any, init: Any, xs: Any, *, reverse: bool) -> Any:
            nonlocal done
            *scanned, done = concurrent_scan(body, consts, init, xs, shards=shards, reverse=reverse)
            return scanned

        h_last, residuals = scan_steps_of(cell, inputs, h0, scan_fn=scan_fn, **options)
        residuals = residuals._replace(projected=None)
        ys = mask_outputs(cell.output(unshard(residuals.states)), inputs.valid, inputs.xs.dtype)
        saved = (cell, inputs, add_dependency(h0, done), residuals)
        return (h_last, add_dependency(ys, done)), saved

    def function(cell: AffineCell, inputs: ScanInputs, h0: State) -> tuple[State, Array]:
        shards, in_loop, time_block = plan.forward

        def run_whole(inputs: ScanInputs, h0: State) -> tuple[State, Array]:
            options: Any = {"project_in_loop": in_loop}
            if shards != UNSHARDED:
                return run_saving(cell, inputs, h0, shards, save="states", **options)[0]
            h_last, outputs = scan_steps_of(cell, inputs, h0, save="outputs", **options)
            return h_last, mask_outputs(outputs, inputs.valid, inputs.xs.dtype)

        if time_block is None:
            return run_whole(inputs, h0)
        return run_in_chunks(run_whole, inputs, h0, chunk_size=time_block, reverse=reverse)

    save, max_chunk_steps, shards, in_loop = plan.gradient
    forward = functools.partial(run_saving, shards=shards, save=save, project_in_loop=in_loop)

    def pullback(saved: Saved, cotangents: tuple[State, Array]) -> tuple[Any, ...]:
        options = BackwardOptions(
            graph, reverse, max_chunk_steps, max_transposed_ratio=tuning.max_transposed_ratio
        )
        if shards != UNSHARDED:
            scan = functools.partial(adjoint_scan, scan_fn=concurrent_scan_fn(shards))
            options = options._replace(adjoint_scan=scan, materialize=True)
        return backward.backward_pass(saved, cotangents, options)

    functions: tuple[Any, Any, Any] = (function, forward, pullback)
    if spec.is_partitioned:
        rank = len(batch_shape_of(cell, inputs.xs))
        functions = partition_derivative(*functions, rank=rank)
    if plan.copies is not None:
        wrap = functools.partial(
            run_copies_in_turn,
            num_weights=len(jax.tree.leaves(cell)),
            least_copies=plan.copies.least_copies,
        )
        return custom_vjp_with_jvp(*functions, wrap, map_axes=MAP_AXES)(cell, inputs, h0)
    return custom_vjp_with_jvp(*functions, map_axes=MAP_AXES)(cell, inputs, h0)


def forward_scan(
    cell: AffineCell,
    inputs: ScanInputs,
    h0: State,
    *,
    graph: StepGraph,
    save: str,
    project_in_loop: bool,
    reverse: bool,
    scan_fn: ScanFn = lax_scan,
) -> tuple[State, Any]:
    """The state after the last step, and the outputs or the residuals of every step.

    ``save`` is ``"outputs"``, for ``cell.output`` of every state, or which residuals. Inputs that
    are projected in the loop are not saved.
    """
    dtype = inputs.xs.dtype
    compute_cell = cast_params(cell, dtype)
    # Hoisted: with ``reset="before"`` the loop would split the weights at each step.
    weights = backward.weights_of(compute_cell, graph, inputs, h0)
    reset_state = None if inputs.resets is None else reset_state_like(cell, inputs, h0)
    consts = ScanConsts(shared=(compute_cell, weights), batched=reset_state)

    def body(consts: ScanConsts, state: State, x: Any) -> tuple[State, Any]:
        compute_cell, weights = consts.shared
        read, valid, reset = x
        if reset is not None:
            state = tree_where(reset, consts.batched, state)
        projected = compute_cell.project(read) if project_in_loop else read
        hoisted = iter(weights)
        trace = run_step(
            compute_cell,
            promote_state(state, dtype),
            projected,
            lambda operand, _, addends: affine(operand, next(hoisted), addends),
        )
        new = cast_like(trace.state, state)
        state = new if valid is None else tree_where(valid, new, state)
        if save == "outputs":
            return state, cell.output(state)
        if save == "preactivations":
            preactivations = [matmul.preactivations for matmul in trace.matmuls]
            return state, Residuals(state, preactivations, graph.select_elementwise(projected))
        return state, Residuals(state)

    scan_inputs = inputs.xs if project_in_loop else compute_cell.project(inputs.xs)
    xs = (scan_inputs, inputs.valid, inputs.resets)
    h_last, saved = scan_fn(body, consts, h0, xs, reverse=reverse)
    if save == "projected" and not project_in_loop:
        saved = saved._replace(projected=scan_inputs)
    return h_last, saved


def make_schedule(spec: CallSpec, cell: AffineCell, inputs: ScanInputs, h0: State) -> Schedule:
    """The schedule of a call."""
    graph, tuning = spec.step_graph, tuning_for(spec.platform)
    assert isinstance(graph, StepGraph), "unsupported otherwise"
    time, xs = inputs.xs.shape[0], inputs.xs
    if not spec.has_static_shape:
        return schedule_any_size(time, tuning, recompute=spec.recompute)
    batch_shape = batch_shape_of(cell, xs)
    sequences, leaves = math.prod(batch_shape), jax.tree.leaves(h0)
    _, projected = step_avals(cell, inputs, h0)
    sizes = Sizes(
        time=time,
        sequences=sequences,
        features=math.prod(xs.shape[1:]) // max(1, sequences),
        state=sum(leaf.size for leaf in leaves),
        largest_leaf=max(leaf.size for leaf in leaves),
        units=max(leaf.shape[-1] for leaf in leaves),
        params=sum(leaf.size for leaf in jax.tree.leaves(cell)),
        projected=sum(leaf.size for leaf in jax.tree.leaves(projected)),
        jacobians=sum(map(len, graph.dependencies)),
        residuals=sum(graph.num_splits) + len(graph.elementwise_leaves),
        can_shard=(
            len(batch_shape) == 1 and jnp.finfo(xs.dtype).bits >= 32 and spec.num_devices == 1
        ),
        has_one_device=spec.num_devices == 1,
        cores_per_device=None if spec.mesh.empty else count_cores() // spec.mesh.size,
        recompute=spec.recompute,
        num_live_cells=spec.num_live_cells,
    )
    return schedule(sizes, tuning)


def describe(spec: CallSpec, cell: AffineCell, inputs: ScanInputs, h0: State) -> list[str]:
    """What :func:`run` does with a call, a line for each decision."""
    if _is_empty(inputs, h0):
        return reference.describe(spec, cell, inputs, h0)
    forward, gradient, copies = make_schedule(spec, cell, inputs, h0)
    steps = divisor_near(inputs.xs.shape[0], gradient.max_chunk_steps)
    return [
        f"forward pass: {_describe_loops(forward.shards, forward.project_in_loop)}"
        + (f", {forward.time_block} steps at a time" if forward.time_block else ""),
        f"with a gradient: {_describe_loops(gradient.shards, gradient.project_in_loop)}",
        f"saved for the backward pass: {SAVED[gradient.save]}",
        f"backward pass: in chunks of {steps} steps",
        *_describe_copies(copies),
    ]


def _is_empty(inputs: ScanInputs, h0: State) -> bool:
    """Whether an array has no elements."""
    return any(0 in leaf.shape for leaf in (inputs.xs, *jax.tree.leaves(h0)))


SAVED = {
    "states": "the states; preactivations are recomputed from the inputs",
    "projected": "the states and the projected inputs; preactivations are recomputed",
    "preactivations": "the states and the preactivations of all gates",
}


def _describe_copies(copies: CopySchedule | None) -> list[str]:
    least = None if copies is None else copies.least_copies()
    if least is None:
        return []
    return [f"with a gradient, weights mapped by vmap: one copy after another, from {least} on"]


def _describe_loops(shards: Shards, project_in_loop: bool) -> str:
    loops = "one loop" if shards == UNSHARDED else f"{len(shards)} loops on as many CPU cores"
    return f"{loops}, inputs projected {'in the loop' if project_in_loop else 'before it'}"
