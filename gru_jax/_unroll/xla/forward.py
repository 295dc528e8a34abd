"""Forward pass: a scan over time that also returns the residuals of the backward pass.

Notation: T time steps, B the batch axes, D input features, H units.
"""

from typing import Any, Literal

from gru_jax._autodiff.step_graph import StepGraph, run_step
from gru_jax._unroll.backward.adjoint_scan import ScanFn, lax_scan
from gru_jax._unroll.backward.backward_pass import weights_of
from gru_jax._unroll.backward.residuals import ResidualPolicy, Residuals
from gru_jax._unroll.carry import reset_state_like, step_avals
from gru_jax._unroll.masking import ScanInputs, tree_where
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import affine
from gru_jax.cells.precision import cast_like, cast_params, promote_state
from gru_jax.typing import State


def forward_scan(
    cell: AffineCell,
    inputs: ScanInputs,
    h0: State,
    graph: StepGraph,
    *,
    save: Literal["outputs"] | ResidualPolicy,
    project_in_loop: bool,
    reverse: bool,
    scan_fn: ScanFn = lax_scan,
) -> tuple[State, Any]:
    """The state after the last step, and the outputs or the residuals of every step.

    Args:
        cell: parameters in float32 at least.
        inputs: leaves (T, *batch, ...).
        h0: leaves (*batch, H).
        graph: of a step.
        save: ``"outputs"`` for ``cell.output`` of every state, or which residuals.
        project_in_loop: whether inputs are projected step by step; they are not saved then.
        reverse: whether step T - 1 comes first.
        scan_fn: runs the steps.
    """
    dtype = inputs.xs.dtype
    compute_cell = cast_params(cell, dtype)
    # Hoisted: with ``reset="before"`` the loop would split the weights at each step.
    weights = weights_of(compute_cell, step_avals(cell, inputs, h0))
    consts = (compute_cell, weights, reset_state_like(cell, inputs, h0))

    def body(consts: Any, state: State, x: Any) -> tuple[State, Any]:
        compute_cell, weights, reset_state = consts
        read, valid, reset = x
        if reset is not None:
            state = tree_where(reset, reset_state, state)
        projected = compute_cell.project(read) if project_in_loop else read
        h = promote_state(state, dtype)
        hoisted = iter(weights)
        trace = run_step(
            compute_cell, h, projected, lambda h, _, addends: affine(h, next(hoisted), addends)
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
