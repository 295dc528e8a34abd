"""The way forward: the loop over steps, with what the way back will need of them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import Anatomy, dissect, record, weights_of
from gru_jax._unroll.masking import Steps, mask_outputs, select
from gru_jax._unroll.sharding import place
from gru_jax._unroll.transform_rules import with_reference_fallback
from gru_jax._unroll.xla.concurrent_scan import Parts, scan_parts, take
from gru_jax.cells.base import AffineCell, accum_dtype, cast_params
from gru_jax.typing import Array, DType, Shape, State

Leaves = list[Array]


class Kept(NamedTuple):
    """What the way forward leaves for the way back, of all steps.

    Attributes:
        states: the state after each step.
        sums: per product what :func:`affine` returned; None where that is computed again.
        direct: what is read of the projected inputs besides; None likewise.
        projected: all that was projected of the inputs, where sums are to be computed again from
            it; None where that is projected again, too.
    """

    states: State
    sums: list[tuple[Array, ...]] | None = None
    direct: Leaves | None = None
    projected: Any = None


Keep = Literal["states", "projected", "sums"]
"""What is kept of all steps: the first alone, or one of the others as well."""

Walked = tuple[list[State], list[Kept], Array]


def walk(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    *,
    reverse: bool,
    keep: Literal["outputs"] | Keep,
    project_inside: bool,
) -> tuple[State, Any]:
    """The state after the last step, and of each step the output or what is to be kept.

    With ``project_inside`` inputs are projected step by step; then that is not kept by itself.
    """
    body, read = _body(cell, steps, state, anatomy, keep=keep, project_inside=project_inside)
    last, kept = lax.scan(body, state, read, reverse=reverse)
    if keep == "outputs":
        return last, mask_outputs(kept, steps.valid, steps.xs.dtype)
    if keep == "projected" and not project_inside:
        kept = kept._replace(projected=read[0])
    return last, kept


def walk_parts(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    *,
    parts: Parts,
    reverse: bool,
    keep: Keep,
    project_inside: bool,
) -> Walked:
    """:func:`walk` for parts of the batch that run at the same time, without resets.

    Args:
        cell, steps, state, anatomy, reverse, keep, project_inside: as for :func:`walk`.
        parts: of the batch, of which there is one axis.

    Returns:
        Of each part the state after the last step, and what is to be kept; and the zero of
        :func:`~gru_jax._unroll.xla.concurrent_scan.scan_parts`.
    """

    def apart(cell: AffineCell, steps: Steps, state: State) -> Walked:
        body, read = _body(cell, steps, state, anatomy, keep=keep, project_inside=project_inside)

        def without_states(state: State, step: Any) -> tuple[State, Kept]:
            new, kept = body(state, step)
            return new, kept._replace(states=None)

        finished, zero = scan_parts(without_states, state, read, parts, reverse=reverse)
        return (
            [part.last for part in finished],
            [part.outputs._replace(states=part.states) for part in finished],
            zero,
        )

    def in_turn(cell: AffineCell, steps: Steps, state: State) -> Walked:
        options: Any = {"reverse": reverse, "keep": keep, "project_inside": project_inside}
        done = [
            walk(cell, take(steps, part, axis=1), take(state, part), anatomy, **options)
            for part in parts
        ]
        return [last for last, _ in done], [kept for _, kept in done], jnp.int32(0)

    return with_reference_fallback(apart, in_turn)(cell, steps, state)


def _body(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    *,
    keep: Literal["outputs"] | Keep,
    project_inside: bool,
) -> tuple[Callable[[State, Any], tuple[State, Any]], Any]:
    """One step, and what is read of all of them."""
    dtype = steps.xs.dtype
    batch_shape = batch_shape_of(cell, steps)
    precise = cast_params(cell, dtype)
    initial = place(initial_like(cell, state, batch_shape), state)
    # Or the loop takes those with ``reset="before"`` apart at each step.
    weights = weights_of(precise, *jax.tree.map(jnp.zeros_like, one_step(precise, steps, state)))

    def body(state: State, step: tuple[Any, Array | None, Array | None]) -> tuple[State, Any]:
        read, valid, reset = step
        if reset is not None:
            state = select(reset, initial, state)
        projected = precise.project(read) if project_inside else read
        new, sums = record(precise, wide(state, dtype), projected, weights)
        new = jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)
        held = new if valid is None else select(valid, new, state)
        if keep == "outputs":
            return held, cell.output(held)
        if keep == "sums":
            return held, Kept(held, sums, anatomy.pick_direct(projected))
        return held, Kept(held)

    read = steps.xs if project_inside else precise.project(steps.xs)
    return body, (read, steps.valid, steps.resets)


def show(cell: AffineCell, states: State, valid: Array | None, dtype: DType) -> Array:
    """The outputs of states, zero at steps that are not valid."""
    return mask_outputs(cell.output(states), valid, dtype)


def batch_shape_of(cell: AffineCell, steps: Steps) -> Shape:
    """The batch axes of steps."""
    return steps.xs.shape[1 : steps.xs.ndim - cell.num_feature_axes]


def initial_like(cell: AffineCell, state: State, batch_shape: Shape) -> State:
    """The state that resets put in, in the dtypes of another."""
    return cast_like(cell.initial_state(batch_shape), state)


def anatomy_of(cell: AffineCell, steps: Steps, state: State) -> Anatomy:
    """How the parts of a step read each other."""
    precise = cast_params(cell, steps.xs.dtype)
    return dissect(precise, *one_step(precise, steps, state))


def one_step(precise: AffineCell, steps: Steps, state: State) -> tuple[State, Any]:
    """The types of what one step combines."""
    x = jax.ShapeDtypeStruct(steps.xs.shape[1:], steps.xs.dtype)
    return jax.eval_shape(lambda h, x: (wide(h, x.dtype), precise.project(x)), state, x)


def wide(state: State, dtype: DType) -> State:
    """A state in the dtype of gate arithmetic for inputs of ``dtype``."""
    return jax.tree.map(lambda leaf: leaf.astype(accum_dtype(dtype)), state)


def cast_like(tree: Any, like: Any) -> Any:
    """A tree in the dtypes of another."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)
