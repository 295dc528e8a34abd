"""The way back over all steps, block by block."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import Anatomy, weights_of
from gru_jax._unroll.backward.chunk import (
    AS_CHOSEN,
    Block,
    Cotangents,
    Layout,
    Sweep,
    block_back,
    sweep,
)
from gru_jax._unroll.chunks import divisor_near, in_windows
from gru_jax._unroll.masking import Steps
from gru_jax._unroll.sharding import place, settle
from gru_jax._unroll.xla.concurrent_scan import join
from gru_jax._unroll.xla.forward import (
    Kept,
    batch_shape_of,
    cast_like,
    initial_like,
    one_step,
    wide,
)
from gru_jax.cells.base import AffineCell, cast_params
from gru_jax.typing import Array, State

LARGE_BLOCK = 2**25
"""Of a state over a block's steps, where no cache but memory bounds it: 128 MiB in float32."""


def walk_back(
    residuals: tuple[AffineCell, Steps, State, list[Kept]],
    cotangents: tuple[State, Array],
    anatomy: Anatomy,
    *,
    reverse: bool,
    most_steps: int,
    sweep: Sweep = sweep,
    layout: Layout = AS_CHOSEN,
) -> tuple[AffineCell, Steps, State]:
    """The cotangents of the cell, the inputs and the first state.

    Args:
        residuals: what was run, and what the way forward left, per part of the batch.
        cotangents: of the last state and of the outputs.
        anatomy: of a step.
        reverse: the direction of the way forward.
        most_steps: of a block.
        sweep: the loop over a block's steps.
        layout: see there.
    """
    cell, steps, state, kept = residuals
    d_last, d_ys = cotangents
    time, dtype = steps.xs.shape[0], steps.xs.dtype
    batch_shape = batch_shape_of(cell, steps)
    like = one_step(cast_params(cell, dtype), steps, state)
    initial, pull_initial = jax.vjp(
        lambda cell: place(initial_like(cell, state, batch_shape), state), cell
    )
    weights, pull_weights = jax.vjp(
        lambda cell: weights_of(cell, *jax.tree.map(jnp.zeros_like, like)), cell
    )
    transposed = [array.astype(dtype).T for array in weights]

    # A product with a transposed matrix is slower by a third: what is transposed outside of the
    # blocks and again within is read as it lies when a gradient transposes it once more.
    leaves, structure = jax.tree.flatten(cell)
    mirrored = [lax.optimization_barrier(leaf.T) for leaf in leaves]

    def walk(carry: Cotangents, block: Block) -> tuple[Cotangents, Array]:
        cell = jax.tree.unflatten(structure, [leaf.T for leaf in mirrored])
        return block_back(
            cell,
            anatomy,
            transposed,
            initial,
            carry,
            block,
            reverse=reverse,
            sweep=sweep,
            layout=layout,
        )

    def zeros_like(tree: Any) -> Any:
        return place(jax.tree.map(jnp.zeros_like, tree), tree)

    carry = Cotangents(
        state=jax.tree.leaves(wide(d_last, dtype)),
        initial=None if steps.resets is None else jax.tree.leaves(zeros_like(wide(state, dtype))),
        weights=zeros_like(weights),
        cell=zeros_like(cell),
    )
    window = divisor_near(time, most_steps)
    carry, d_xs = _over_blocks(walk, carry, steps, kept, d_ys, state, window, reverse=reverse)

    d_cells = [carry.cell, *pull_weights(carry.weights)]
    if carry.initial is not None:
        d_initial = jax.tree.unflatten(anatomy.state, carry.initial)
        d_cells += pull_initial(cast_like(d_initial, initial))
    d_state = cast_like(jax.tree.unflatten(anatomy.state, carry.state), state)
    d_cell = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *d_cells)
    return d_cell, Steps(d_xs, steps.valid, steps.resets), d_state


def _over_blocks(
    walk: Callable[[Cotangents, Block], tuple[Cotangents, Array]],
    carry: Cotangents,
    steps: Steps,
    kept: list[Kept],
    d_ys: Array,
    state: State,
    window: int,
    *,
    reverse: bool,
) -> tuple[Cotangents, Array]:
    """Walks blocks of ``window`` steps, the one that was read last first; the last may be short."""
    time = steps.xs.shape[0]
    count, rest = divmod(time, window)
    full, tail = in_windows((steps, kept, d_ys), window)

    def states(chosen: slice) -> State:
        picked = [jax.tree.map(lambda leaf: leaf[chosen], part.states) for part in kept]
        return join(picked, axis=1)

    first = jax.tree.map(lambda leaf: leaf[None], state)
    before_tail = state
    if not reverse:
        before_full = join([first, states(slice(window - 1, count * window - 1, window))])
        if rest:
            before_tail = jax.tree.map(
                lambda leaf: leaf[0], states(slice(count * window - 1, count * window))
            )
    elif rest:
        before_full = states(slice(window, count * window + 1, window))
    else:
        before_full = join([states(slice(window, time, window)), first])

    d_xs = []
    if rest and not reverse:
        carry, d_tail = walk(carry, Block(tail[0], tail[1], tail[2], before_tail))
        d_xs.append(d_tail)
    blocks = Block(full[0], full[1], full[2], before_full)
    if count == 1:
        carry, d_full = walk(carry, jax.tree.map(lambda leaf: leaf[0], blocks))
    else:
        first = jax.tree.map(lambda leaf: leaf[0], blocks)
        carry = settle(lambda carry: walk(carry, first)[0], carry)
        carry, d_full = lax.scan(walk, carry, blocks, reverse=not reverse)
        d_full = d_full.reshape(count * window, *d_full.shape[2:])
    d_xs.insert(0, d_full)
    if rest and reverse:
        carry, d_tail = walk(carry, Block(tail[0], tail[1], tail[2], before_tail))
        d_xs.append(d_tail)
    return carry, jnp.concatenate(d_xs) if rest else d_full
