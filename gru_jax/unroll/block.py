"""The way back over a block of steps: a loop for the states, all else for all steps at once."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.cells.anatomy import Anatomy, addends_of, record
from gru_jax.cells.base import AffineCell, at_precision, dot, gate_dtype
from gru_jax.typing import Array, DType, State
from gru_jax.unroll.control import Steps, expand, select
from gru_jax.unroll.placement import settle
from gru_jax.unroll.side_by_side import Loop, Parts, after, join, run_side_by_side, take
from gru_jax.unroll.transformable import untransformed
from gru_jax.unroll.walk import Kept, Leaves, show, wide

Slopes = list[dict[int, Array]]
"""Per output of a cell's elementwise part, its derivative with respect to inputs, by input."""


class Cotangents(NamedTuple):
    """What is handed from block to block on the way back.

    Attributes:
        state: of the state ahead of the block last walked, its leaves, per part of the batch.
        initial: of the initial state, which resets put in, likewise; None without resets.
        weights: of the recurrent weights, one array per product.
        cell: of all other parameters.
    """

    state: list[Leaves]
    initial: Leaves | None
    weights: Leaves
    cell: AffineCell


class Block(NamedTuple):
    """Some steps, and per part of the batch what was kept of them and the state ahead of them."""

    steps: Steps
    kept: list[Kept]
    d_ys: Array
    before: list[State]


class Recurrence(NamedTuple):
    """The recurrence of the cotangents, linear in them, of all steps of a block.

    Attributes:
        packed: per product and output, the derivatives with respect to the product's sums
            (T, *batch, k, H).
        passed: per output and leaf of the state, the derivative (T, *batch, H) past the products.
        d_shown: per leaf of the state, the cotangent that comes from the step's own output.
        resets: (T, *batch), see :class:`~gru_jax.unroll.control.Steps`.
    """

    packed: list[dict[int, Array]]
    passed: Slopes
    d_shown: dict[int, Array]
    resets: Array | None


SweepCarry = tuple[Leaves, Leaves | None]
"""The cotangents of the state and of the initial state, as in :class:`Cotangents`."""


Swept = tuple[SweepCarry, dict[int, Array]]
"""The cotangents ahead of all steps, and of each step's outputs."""


@runtime_checkable
class Sweep(Protocol):
    """Solves a recurrence per part of the batch."""

    def __call__(
        self,
        anatomy: Anatomy,
        transposed: Leaves,
        recurrences: Sequence[Recurrence],
        carries: Sequence[SweepCarry],
        *,
        reverse: bool,
    ) -> Sequence[Swept]: ...


def block_back(
    cell: AffineCell,
    anatomy: Anatomy,
    transposed: Leaves,
    initial: State,
    carry: Cotangents,
    block: Block,
    parts: Parts,
    *,
    reverse: bool,
    sweep: Sweep,
) -> tuple[Cotangents, Array]:
    """One block: ``sweep`` for the states, all else for its steps at once."""
    steps, d_ys = block.steps, block.d_ys
    prepared = [
        _prepare(
            cell,
            anatomy,
            initial,
            take(steps, part, axis=1),
            kept,
            take(d_ys, part, axis=1),
            before,
            reverse=reverse,
        )
        for part, kept, before in zip(parts, block.kept, block.before, strict=True)
    ]
    swept = sweep(
        anatomy,
        transposed,
        [part.recurrence for part in prepared],
        [(state, carry.initial) for state in carry.state],
        reverse=not reverse,
    )
    d_weights, d_cell, d_xs = carry.weights, carry.cell, []
    for part, (_, d_outputs) in zip(prepared, swept, strict=True):
        d_weights, d_cell, d_part = _finish(cell, anatomy, part, d_outputs, d_weights, d_cell)
        d_xs.append(d_part)
    carry = Cotangents([state for (state, _), _ in swept], swept[-1][0][1], d_weights, d_cell)
    return carry, join(d_xs, axis=1)


class _Part(NamedTuple):
    """What is known of a part of the batch before its recurrence is solved.

    Attributes:
        steps: of the part.
        inputs: of the cell's elementwise part, see :class:`~gru_jax.cells.anatomy.Anatomy`.
        slopes: its derivatives.
        recurrence: what follows from them.
        d_cell: cotangent of what the outputs read of the cell.
    """

    steps: Steps
    inputs: Leaves
    slopes: Slopes
    recurrence: Recurrence
    d_cell: AffineCell


def _prepare(
    cell: AffineCell,
    anatomy: Anatomy,
    initial: State,
    steps: Steps,
    kept: Kept,
    d_ys: Array,
    before: State,
    *,
    reverse: bool,
) -> _Part:
    dtype = steps.xs.dtype
    precise = at_precision(cell, dtype)
    num_states, num_products = anatomy.state.num_leaves, len(anatomy.widths)

    previous = jax.tree.map(
        lambda first, states: _shift(first, states, reverse=reverse), before, kept.states
    )
    if steps.resets is not None:
        everywhere = jax.tree.map(lambda i, h: jnp.broadcast_to(i, h.shape), initial, previous)
        previous = select(steps.resets, everywhere, previous)
    previous = wide(previous, dtype)
    sums, direct = kept.sums, kept.direct
    if sums is None or direct is None:
        projected = precise.project(steps.xs)
        sums, direct = record(precise, previous, projected)[1], anatomy.pick_direct(projected)
    inputs = [*jax.tree.leaves(previous), *jax.tree.leaves(sums), *direct]
    slopes = anatomy.diagonals(precise, inputs)
    if steps.valid is not None:
        slopes = _hold(slopes, steps.valid, jax.tree.leaves(previous))
    packed = [_pack(slopes, anatomy.sums_of(product)) for product in range(num_products)]
    passed = [{at: row[at] for at in row if at < num_states} for row in slopes]

    _, pull_output = jax.vjp(
        lambda cell, states: show(cell, states, steps.valid, dtype), cell, kept.states
    )
    d_cell, d_states = pull_output(d_ys)
    d_shown = {
        index: leaf.astype(gate_dtype(dtype))
        for index, leaf in enumerate(jax.tree.leaves(d_states))
        if index in anatomy.shown
    }
    recurrence = Recurrence(packed, passed, d_shown, steps.resets)
    return _Part(steps, inputs, slopes, recurrence, d_cell)


def _finish(
    cell: AffineCell,
    anatomy: Anatomy,
    part: _Part,
    d_outputs: dict[int, Array],
    d_weights: Leaves,
    d_cell: AffineCell,
) -> tuple[Leaves, AffineCell, Array]:
    """The cotangents of the weights and the cell, added to those given, and of the inputs."""
    dtype = part.steps.xs.dtype
    precise = at_precision(cell, dtype)
    num_states = anatomy.state.num_leaves
    # Over rows from here on: a product that contracts two axes is laid out badly.
    d_direct = _rows([_gather(part.slopes, d_outputs, at) for at in anatomy.direct_inputs])
    d_products = _rows([_spread(pack, d_outputs) for pack in part.recurrence.packed])
    operands = _rows(anatomy.evaluate(precise, part.inputs)[1])
    xs = _rows(part.steps.xs)
    previous = jax.tree.unflatten(anatomy.state, _rows(part.inputs[:num_states]))
    sums = [
        tuple(_rows([part.inputs[at] for at in anatomy.sums_of(product)]))
        for product in range(len(anatomy.widths))
    ]
    d_weights = [
        total + _weights_gradient(operand, d_product, dtype)
        for total, operand, d_product in zip(d_weights, operands, d_products, strict=True)
    ]

    def addends(cell: AffineCell, xs: Array) -> tuple[Any, Leaves]:
        precise = at_precision(cell, dtype)
        projected = precise.project(xs)
        return addends_of(precise, previous, projected, sums), anatomy.pick_direct(projected)

    found, pull_addends = jax.vjp(addends, cell, xs)
    d_addends = [
        [
            None if addend is None else d_sum
            for addend, d_sum in zip(row, jnp.split(d_product, len(row), axis=-1), strict=True)
        ]
        for row, d_product in zip(found[0], d_products, strict=True)
    ]
    d_found, d_xs = pull_addends((d_addends, d_direct))
    d_cell = jax.tree.map(lambda *d: sum(d[1:], d[0]), d_cell, d_found, part.d_cell)
    return d_weights, d_cell, d_xs.reshape(part.steps.xs.shape)


def sweep(
    anatomy: Anatomy,
    transposed: Leaves,
    recurrences: Sequence[Recurrence],
    carries: Sequence[SweepCarry],
    *,
    reverse: bool,
) -> list[Swept]:
    """A :class:`Sweep` as loops of JAX's, for every affine cell."""
    back = _back(anatomy, transposed)

    def of_part(recurrence: Recurrence, carry: SweepCarry) -> Swept:
        first = jax.tree.map(lambda leaf: leaf[0], recurrence)
        begin = settle(lambda carry: back(carry, first)[0], carry)
        carry, d_outputs = lax.scan(back, begin, recurrence, reverse=reverse)
        return carry, dict(enumerate(d_outputs))

    return list(map(of_part, recurrences, carries))


def sweep_parts(
    anatomy: Anatomy,
    transposed: Leaves,
    recurrences: Sequence[Recurrence],
    carries: Sequence[SweepCarry],
    *,
    reverse: bool,
) -> list[Swept]:
    """:func:`sweep` for parts of the batch that run at the same time, without resets."""

    def apart(
        transposed: Leaves, recurrences: list[Recurrence], carries: list[SweepCarry]
    ) -> list[Swept]:
        back = _back(anatomy, transposed)
        loops = [
            Loop(
                back,
                carry,
                lambda index, recurrence=recurrence: jax.tree.map(
                    lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), recurrence
                ),
                jax.tree.leaves(recurrence)[0].shape[0],
                reverse,
            )
            for recurrence, carry in zip(recurrences, carries, strict=True)
        ]
        finished, zero = run_side_by_side(loops)
        return [(part.last, dict(enumerate(after(zero, part.outputs)))) for part in finished]

    def in_turn(
        transposed: Leaves, recurrences: list[Recurrence], carries: list[SweepCarry]
    ) -> list[Swept]:
        return sweep(anatomy, transposed, recurrences, carries, reverse=reverse)

    return untransformed(apart, in_turn)(transposed, list(recurrences), list(carries))


def _back(
    anatomy: Anatomy, transposed: Leaves
) -> Callable[[SweepCarry, Recurrence], tuple[SweepCarry, Leaves]]:
    """One step of a recurrence."""
    num_states, num_products = anatomy.state.num_leaves, len(anatomy.widths)

    def back(carry: SweepCarry, step: Recurrence) -> tuple[Any, Leaves]:
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

    return back


def _weights_gradient(operand: Array, d_product: Array, dtype: DType) -> Array:
    """``operand^T @ d_product``, from operands in ``dtype``, in the dtype of gate arithmetic."""
    return jnp.matmul(
        operand.astype(dtype).T, d_product.astype(dtype), preferred_element_type=gate_dtype(dtype)
    )


def _rows(tree: Any) -> Any:
    """All axes but the last made one."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), tree)


def _pack(slopes: Slopes, inputs: range) -> dict[int, Array]:
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


def _gather(slopes: Slopes, d_outputs: dict[int, Array], at: int) -> Array:
    """The cotangent of a leaf of the state or a direct input, from the outputs that read it."""
    terms = [row[at] * d_outputs[i] for i, row in enumerate(slopes) if i in d_outputs and at in row]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(d_outputs[at])


def _hold(slopes: Slopes, valid: Array, states: Leaves) -> Slopes:
    """The derivatives where a step that is not valid hands the state on as it is."""
    held = []
    for output, row in enumerate(slopes):
        if output < len(states):
            row = {at: jnp.where(expand(valid, d), d, jnp.zeros_like(d)) for at, d in row.items()}
            like = states[output]
            through = row.get(output, jnp.zeros_like(like))
            row[output] = jnp.where(expand(valid, like), through, jnp.ones_like(like))
        held.append(row)
    return held


def _shift(first: Array, states: Array, *, reverse: bool) -> Array:
    """The state ahead of each step, from the one ahead of all and those after each."""
    if reverse:
        return jnp.concatenate([states[1:], first[None]])
    return jnp.concatenate([first[None], states[:-1]])
