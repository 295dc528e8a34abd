"""The loop with a derivative written by hand: fast where XLA compiles loops, on CPUs above all.

What autodiff of a scan costs, and what is done instead:

- It adds up the weights' gradients in the loop. Here the loop finds the gradients of the states
  only; those of the weights are products over many steps at once.
- It differentiates the gates step by step. Here that is done for many steps at once, outside of
  the loop, which is then linear in the states' gradients.
- It keeps a dozen arrays as large as all states. Here the sums that enter the gates are kept, or
  nothing but the states, and the sequence is walked back in blocks that fit in a cache.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.cells.anatomy import Anatomy, addends_of, dissect, record, weights_of
from gru_jax.cells.base import AffineCell, Cell, at_precision, dot, gate_dtype, widen
from gru_jax.derivative import with_pullback
from gru_jax.typing import Array, DType, Shape, State
from gru_jax.unroll import scan
from gru_jax.unroll.control import Steps, expand, select
from gru_jax.unroll.placement import place, settle, vary_alike

BLOCK = 2**17
"""Elements of a state over the steps of a block: half a MiB in float32, of which a dozen are used."""

ROWS = 1280
"""Steps times sequences that a block has at least, lest adding up the weights' gradients weighs."""

PROJECT_INSIDE = 16
"""The batch from which, on a CPU, inputs are projected as they are read and not beforehand.

Beforehand saves a product per step; as they are read saves three arrays as large as all states,
whose fresh pages cost more than the product does where it has rows enough to be efficient.
"""

Leaves = list[Array]


def unsupported(cell: Cell) -> str | None:
    """Why this implementation cannot run ``cell``; None where it can."""
    if isinstance(cell, AffineCell):
        return None
    return f"{type(cell).__name__} is not a gru_jax.AffineCell, whose products can be told apart"


def run(
    cell: AffineCell, steps: Steps, state: State, *, reverse: bool, recompute: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time; with ``recompute`` nothing but the states is kept for gradients."""
    if not steps.xs.shape[0]:
        return scan.run(cell, steps, state, reverse=reverse, recompute=recompute)
    cell, steps, state = vary_alike((widen(cell), steps, state))

    def function(cell: AffineCell, steps: Steps, state: State) -> tuple[State, Array]:
        return _walk(cell, steps, state, reverse=reverse, keep="outputs")

    def forward(
        cell: AffineCell, steps: Steps, state: State
    ) -> tuple[tuple[State, Array], tuple[Any, ...]]:
        keep = "states" if recompute else "sums"
        last, kept = _walk(cell, steps, state, reverse=reverse, keep=keep)
        ys = _show(cell, kept.states, steps.valid, steps.xs.dtype)
        return (last, ys), (cell, steps, state, kept)

    def pullback(
        residuals: tuple[Any, ...], cotangents: tuple[State, Array]
    ) -> tuple[AffineCell, Steps, State]:
        return _walk_back(*residuals, *cotangents, reverse=reverse)

    return with_pullback(function, forward, pullback)(cell, steps, state)


class _Kept(NamedTuple):
    """What the way forward leaves for the way back, of all steps.

    Attributes:
        states: the state after each step.
        sums: per product what :func:`affine` returned; None where that is computed again.
        direct: what is read of the projected inputs besides; None likewise.
    """

    states: State
    sums: list[tuple[Array, ...]] | None = None
    direct: Leaves | None = None


def _walk(
    cell: AffineCell,
    steps: Steps,
    state: State,
    *,
    reverse: bool,
    keep: Literal["outputs", "states", "sums"],
) -> tuple[State, Any]:
    """The state after the last step, and of each step the output or what is to be kept."""
    dtype = steps.xs.dtype
    batch_shape = _batch_shape(cell, steps)
    precise = at_precision(cell, dtype)
    initial = place(_initial_state(cell, state, batch_shape), state)
    anatomy = _dissect(precise, steps, state)
    inside = jax.default_backend() == "cpu" and math.prod(batch_shape) >= PROJECT_INSIDE

    def body(state: State, step: tuple[Any, Array | None, Array | None]) -> tuple[State, Any]:
        read, valid, reset = step
        if reset is not None:
            state = select(reset, initial, state)
        projected = precise.project(read) if inside else read
        new, sums = record(precise, _wide(state, dtype), projected)
        new = jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)
        if keep == "outputs":
            kept = _show(cell, new, valid, dtype)
        if valid is not None:
            new = select(valid, new, state)
        if keep == "states":
            kept = _Kept(new)
        if keep == "sums":
            kept = _Kept(new, sums, anatomy.pick_direct(projected))
        return new, kept

    read = steps.xs if inside else precise.project(steps.xs)
    return lax.scan(body, state, (read, steps.valid, steps.resets), reverse=reverse)


class _Cotangents(NamedTuple):
    """What is handed from block to block on the way back.

    Attributes:
        state: of the state ahead of the block last walked, its leaves.
        initial: of the initial state, which resets put in, likewise; None without resets.
        weights: of the recurrent weights, one array per product.
        cell: of all other parameters.
    """

    state: Leaves
    initial: Leaves | None
    weights: Leaves
    cell: AffineCell


class _Block(NamedTuple):
    """Some steps, what was kept of them, and the state ahead of them."""

    steps: Steps
    kept: _Kept
    d_ys: Array
    before: State


def _walk_back(
    cell: AffineCell,
    steps: Steps,
    state: State,
    kept: _Kept,
    d_last: State,
    d_ys: Array,
    *,
    reverse: bool,
) -> tuple[AffineCell, Steps, State]:
    """The cotangents of the cell, the inputs and the first state."""
    time, dtype = steps.xs.shape[0], steps.xs.dtype
    batch_shape = _batch_shape(cell, steps)
    like = _one_step(at_precision(cell, dtype), steps, state)
    anatomy = dissect(at_precision(cell, dtype), *like)
    initial, pull_initial = jax.vjp(lambda cell: _initial_state(cell, state, batch_shape), cell)
    initial = place(initial, state)
    weights, pull_weights = jax.vjp(
        lambda cell: weights_of(cell, *jax.tree.map(jnp.zeros_like, like)), cell
    )
    transposed = [array.astype(dtype).T for array in weights]

    # A product with a transposed matrix is slower by a third: what is transposed outside of the
    # blocks and again within is read as it lies when a gradient transposes it once more.
    mirrored = jax.tree.map(lambda leaf: lax.optimization_barrier(leaf.T), cell)

    def walk(carry: _Cotangents, block: _Block) -> tuple[_Cotangents, Array]:
        cell = jax.tree.map(lambda leaf: leaf.T, mirrored)
        return _block_back(cell, anatomy, transposed, initial, carry, block, reverse=reverse)

    def zeros_like(tree: Any) -> Any:
        return place(jax.tree.map(jnp.zeros_like, tree), tree)

    carry = _Cotangents(
        state=jax.tree.leaves(_wide(d_last, dtype)),
        initial=None if steps.resets is None else jax.tree.leaves(zeros_like(_wide(state, dtype))),
        weights=zeros_like(weights),
        cell=zeros_like(cell),
    )
    window = _block_steps(
        time, math.prod(batch_shape), max(leaf.size for leaf in jax.tree.leaves(state))
    )
    carry, d_xs = _over_blocks(walk, carry, steps, kept, d_ys, state, window, reverse=reverse)

    d_cells = [carry.cell, *pull_weights(carry.weights)]
    if carry.initial is not None:
        d_initial = jax.tree.unflatten(anatomy.state, carry.initial)
        d_cells += pull_initial(_like(d_initial, initial))
    d_state = _like(jax.tree.unflatten(anatomy.state, carry.state), state)
    d_cell = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *d_cells)
    return d_cell, Steps(d_xs, steps.valid, steps.resets), d_state


def _block_back(
    cell: AffineCell,
    anatomy: Anatomy,
    transposed: Leaves,
    initial: State,
    carry: _Cotangents,
    block: _Block,
    *,
    reverse: bool,
) -> tuple[_Cotangents, Array]:
    """One block: a loop for the states, all else for its steps at once."""
    steps, kept, d_ys, before = block
    dtype = steps.xs.dtype
    precise = at_precision(cell, dtype)
    num_states, num_products = anatomy.state.num_leaves, len(anatomy.widths)

    previous = jax.tree.map(
        lambda first, states: _shift(first, states, reverse=reverse), before, kept.states
    )
    if steps.resets is not None:
        everywhere = jax.tree.map(lambda i, h: jnp.broadcast_to(i, h.shape), initial, previous)
        previous = select(steps.resets, everywhere, previous)
    previous = _wide(previous, dtype)
    sums, direct = kept.sums, kept.direct
    if sums is None or direct is None:
        projected = precise.project(steps.xs)
        sums, direct = record(precise, previous, projected)[1], anatomy.pick_direct(projected)
    inputs = [*jax.tree.leaves(previous), *jax.tree.leaves(sums), *direct]
    slopes = anatomy.diagonals(precise, inputs)
    if steps.valid is not None:
        slopes = _hold(slopes, steps.valid, num_states)
    packed = [_pack(slopes, anatomy.sums_of(product)) for product in range(num_products)]
    passed = [{at: row[at] for at in row if at < num_states} for row in slopes]

    _, pull_output = jax.vjp(
        lambda cell, states: _show(cell, states, steps.valid, dtype), cell, kept.states
    )
    d_cell_shown, d_states = pull_output(d_ys)
    d_shown = {
        index: leaf.astype(gate_dtype(dtype))
        for index, leaf in enumerate(jax.tree.leaves(d_states))
        if index in anatomy.shown
    }

    def back(carry: tuple[Leaves, Leaves | None], step: Any) -> tuple[Any, Leaves]:
        d_new, d_initial = carry
        packed, passed, d_shown, reset = step
        d_outputs = dict(enumerate(d_new))
        d_outputs |= {index: d_outputs[index] + d for index, d in d_shown.items()}
        d_previous = [_gather(passed, d_outputs, index) for index in range(num_states)]
        for product in reversed(range(num_products)):
            d_operand = dot(_spread(packed[product], d_outputs), transposed[product])
            link = anatomy.links[product]
            if link is None:
                computed = anatomy.operand_of(product)
                d_outputs[computed] = d_operand
                for index in range(num_states):
                    if index in passed[computed]:
                        d_previous[index] += passed[computed][index] * d_operand
            else:
                d_previous[link] += d_operand
        if reset is not None:
            zeros = [jnp.zeros_like(d) for d in d_previous]
            added = select(reset, d_previous, zeros)
            d_initial = jax.tree.map(jnp.add, d_initial, added)
            d_previous = select(reset, zeros, d_previous)
        return (d_previous, d_initial), [d_outputs[index] for index in sorted(d_outputs)]

    scanned = (packed, passed, d_shown, steps.resets)
    first = jax.tree.map(lambda leaf: leaf[0], scanned)
    begin = settle(lambda carry: back(carry, first)[0], (carry.state, carry.initial))
    (d_state, d_initial), d_outputs = lax.scan(back, begin, scanned, reverse=not reverse)
    d_outputs = dict(enumerate(d_outputs))

    # Over rows from here on: a product that contracts two axes is laid out badly.
    d_direct = _rows([_gather(slopes, d_outputs, at) for at in anatomy.direct_inputs])
    d_products = _rows([_spread(pack, d_outputs) for pack in packed])
    operands = _rows(anatomy.evaluate(precise, inputs)[1])
    xs, previous, sums = _rows((steps.xs, previous, sums))
    d_weights = [
        total + _weights_gradient(operand, d_product, dtype)
        for total, operand, d_product in zip(carry.weights, operands, d_products, strict=True)
    ]

    def addends(cell: AffineCell, xs: Array) -> tuple[Any, Leaves]:
        precise = at_precision(cell, dtype)
        projected = precise.project(xs)
        return addends_of(precise, previous, projected, sums), anatomy.pick_direct(projected)

    found, pull_addends = jax.vjp(addends, cell, xs)
    d_addends = [
        [
            None if addend is None else part
            for addend, part in zip(row, jnp.split(d_product, len(row), axis=-1), strict=True)
        ]
        for row, d_product in zip(found[0], d_products, strict=True)
    ]
    d_cell, d_xs = pull_addends((d_addends, d_direct))
    d_cell = jax.tree.map(lambda *d: sum(d[1:], d[0]), carry.cell, d_cell, d_cell_shown)
    return _Cotangents(d_state, d_initial, d_weights, d_cell), d_xs.reshape(steps.xs.shape)


def _weights_gradient(operand: Array, d_product: Array, dtype: DType) -> Array:
    """``operand^T @ d_product``, from operands in ``dtype``, in the dtype of gate arithmetic."""
    return jnp.matmul(
        operand.astype(dtype).T, d_product.astype(dtype), preferred_element_type=gate_dtype(dtype)
    )


def _rows(tree: Any) -> Any:
    """All axes but the last made one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), tree)


def _pack(slopes: list[dict[int, Array]], inputs: range) -> dict[int, Array]:
    """Per output, its derivatives with respect to the sums of a product, side by side.

    One array (..., k, H) and not k arrays: the loop multiplies it in one kernel.
    """
    packed = {}
    for output, row in enumerate(slopes):
        if any(at in row for at in inputs):
            zeros = jnp.zeros_like(next(iter(row.values())))
            packed[output] = jnp.stack([row.get(at, zeros) for at in inputs], axis=-2)
    return packed


def _spread(packed: dict[int, Array], d_outputs: dict[int, Array]) -> Array:
    """The cotangent (..., k * H) of a product, from those of the outputs that read its sums."""
    terms = [packed[i] * d_outputs[i][..., None, :] for i in packed if i in d_outputs]
    total = sum(terms[1:], terms[0])
    return total.reshape(*total.shape[:-2], -1)


def _over_blocks(
    walk: Any,
    carry: _Cotangents,
    steps: Steps,
    kept: _Kept,
    d_ys: Array,
    state: State,
    window: int,
    *,
    reverse: bool,
) -> tuple[_Cotangents, Array]:
    """Walks blocks of ``window`` steps, the one that was read last first; the last may be short."""
    time = steps.xs.shape[0]
    count, rest = divmod(time, window)
    along_time = (steps, kept, d_ys)
    full, tail = (
        jax.tree.map(lambda leaf, part=part: leaf[part], along_time)
        for part in (slice(count * window), slice(count * window, time))
    )
    full = jax.tree.map(lambda leaf: leaf.reshape(count, window, *leaf.shape[1:]), full)

    def before_blocks(first: Array, states: Array) -> Array:
        if reverse:
            inner = states[window : time if not rest else count * window + 1 : window]
            return inner if rest else jnp.concatenate([inner, first[None]])
        return jnp.concatenate([first[None], states[window - 1 : count * window - 1 : window]])

    before_full = jax.tree.map(before_blocks, state, kept.states)
    before_tail = state
    if rest and not reverse:
        before_tail = jax.tree.map(lambda states: states[count * window - 1], kept.states)

    d_xs = []
    if rest and not reverse:
        carry, d_tail = walk(carry, _Block(*tail, before_tail))
        d_xs.append(d_tail)
    blocks = _Block(*full, before_full)
    if count == 1:
        carry, d_full = walk(carry, jax.tree.map(lambda leaf: leaf[0], blocks))
    else:
        first = jax.tree.map(lambda leaf: leaf[0], blocks)
        carry = settle(lambda carry: walk(carry, first)[0], carry)
        carry, d_full = lax.scan(walk, carry, blocks, reverse=not reverse)
        d_full = d_full.reshape(count * window, *d_full.shape[2:])
    d_xs.insert(0, d_full)
    if rest and reverse:
        carry, d_tail = walk(carry, _Block(*tail, before_tail))
        d_xs.append(d_tail)
    return carry, jnp.concatenate(d_xs) if rest else d_full


def _block_steps(time: int, batch: int, elements: int) -> int:
    """Steps of a block, a divisor of ``time`` where one is near.

    Args:
        time: T.
        batch: sequences read at once.
        elements: of the state of all of them.
    """
    most = max(BLOCK // max(1, elements), ROWS // max(1, batch), 1)
    if time <= most:
        return time
    return next((steps for steps in range(most, most // 2, -1) if time % steps == 0), most)


def _shift(first: Array, states: Array, *, reverse: bool) -> Array:
    """The state ahead of each step, from the one ahead of all and those after each."""
    if reverse:
        return jnp.concatenate([states[1:], first[None]])
    return jnp.concatenate([first[None], states[:-1]])


def _hold(rows: list[dict[int, Array]], valid: Array, num_states: int) -> list[dict[int, Array]]:
    """The derivatives where a step that is not valid hands the state on as it is."""
    held = []
    for output, row in enumerate(rows):
        if output < num_states:
            like = next(iter(row.values()))
            zeros, ones = jnp.zeros_like(like), jnp.ones_like(like)
            keeps = expand(valid, like)
            row = {
                at: jnp.where(keeps, row.get(at, zeros), ones if at == output else zeros)
                for at in {*row, output}
            }
        held.append(row)
    return held


def _gather(slopes: list[dict[int, Array]], d_outputs: dict[int, Array], at: int) -> Array:
    """The cotangent of an input, from those of the outputs that read it."""
    terms = [row[at] * d_outputs[i] for i, row in enumerate(slopes) if i in d_outputs and at in row]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(d_outputs[0])


def _show(cell: AffineCell, states: State, valid: Array | None, dtype: DType) -> Array:
    """The outputs of states, zero at steps that are not valid."""
    ys = cell.output(states).astype(dtype)
    return ys if valid is None else jnp.where(expand(valid, ys), ys, jnp.zeros_like(ys))


def _batch_shape(cell: AffineCell, steps: Steps) -> Shape:
    return steps.xs.shape[1 : steps.xs.ndim - cell.num_feature_axes]


def _initial_state(cell: AffineCell, state: State, batch_shape: Shape) -> State:
    return _like(cell.initial_state(batch_shape), state)


def _dissect(precise: AffineCell, steps: Steps, state: State) -> Anatomy:
    return dissect(precise, *_one_step(precise, steps, state))


def _one_step(precise: AffineCell, steps: Steps, state: State) -> tuple[State, Any]:
    """The types of what one step combines."""
    x = jax.ShapeDtypeStruct(steps.xs.shape[1:], steps.xs.dtype)
    return jax.eval_shape(lambda h, x: (_wide(h, x.dtype), precise.project(x)), state, x)


def _wide(state: State, dtype: DType) -> State:
    """A state in the dtype of gate arithmetic for inputs of ``dtype``."""
    return jax.tree.map(lambda leaf: leaf.astype(gate_dtype(dtype)), state)


def _like(tree: Any, like: Any) -> Any:
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)
