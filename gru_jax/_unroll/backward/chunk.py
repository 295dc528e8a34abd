"""The way back over a block of steps: a loop for the states, all else for all steps at once."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._autodiff.step_graph import Anatomy, addends_of, record
from gru_jax._unroll.call_spec import are_known
from gru_jax._unroll.masking import Steps, expand, select
from gru_jax._unroll.sharding import settle
from gru_jax._unroll.transform_rules import with_reference_fallback
from gru_jax._unroll.xla.concurrent_scan import Parts, after, join, scan_parts
from gru_jax._unroll.xla.forward import Kept, Leaves, show, wide
from gru_jax.cells.base import AffineCell, accum_dtype, cast_params, dot
from gru_jax.typing import Array, DType, State

Slopes = list[dict[int, Array]]
"""Per output of a cell's elementwise part, its derivative with respect to inputs, by input."""


class Cotangents(NamedTuple):
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


class Block(NamedTuple):
    """Some steps, what was kept of them, per part of the batch, and the state ahead of them."""

    steps: Steps
    kept: list[Kept]
    d_ys: Array
    before: State


class Layout(NamedTuple):
    """How arrays are laid out for XLA's CPU compiler.

    Attributes:
        apart: whether what was kept is joined before it is read, and the gradients of what is
            projected are written one by one before they are joined: arrays are joined fast, but
            not what is computed as they are.
        transposed_rows: per column of the gradient of recurrent weights, up to which the states
            are written transposed before they are multiplied: XLA's other routine for products is
            faster, but for tall and narrow ones.
    """

    apart: bool
    transposed_rows: int


AS_CHOSEN = Layout(apart=False, transposed_rows=0)
"""For other devices: as XLA chooses."""


class Recurrence(NamedTuple):
    """The recurrence of the cotangents, linear in them, of all steps of a block.

    Attributes:
        packed: per product and output, the derivatives with respect to the product's sums
            (T, *batch, k, H).
        passed: per output and leaf of the state, the derivative (T, *batch, H) past the products.
        d_shown: per leaf of the state, the cotangent that comes from the step's own output.
        resets: (T, *batch), see :class:`~gru_jax._unroll.masking.Steps`.
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
    """Solves a recurrence."""

    def __call__(
        self,
        anatomy: Anatomy,
        transposed: Leaves,
        recurrence: Recurrence,
        carry: SweepCarry,
        *,
        reverse: bool,
    ) -> Swept: ...


def block_back(
    cell: AffineCell,
    anatomy: Anatomy,
    transposed: Leaves,
    initial: State,
    carry: Cotangents,
    block: Block,
    *,
    reverse: bool,
    sweep: Sweep,
    layout: Layout,
) -> tuple[Cotangents, Array]:
    """One block: ``sweep`` for the states, all else for its steps at once."""
    steps = block.steps
    kept = join(block.kept, axis=1)
    if layout.apart:
        kept = lax.optimization_barrier(kept)
    precise = cast_params(cell, steps.xs.dtype)
    inputs = _inputs(precise, anatomy, initial, block, kept, reverse=reverse)
    slopes = anatomy.diagonals(precise, inputs)
    if steps.valid is not None:
        slopes = _hold(slopes, steps.valid, inputs[: anatomy.state.num_leaves])
    d_cell_shown, d_shown = _pull_shown(cell, anatomy, block, kept)
    recurrence = Recurrence(
        packed=[_pack(slopes, anatomy.sums_of(product)) for product in range(len(anatomy.widths))],
        passed=[{at: row[at] for at in row if at < anatomy.state.num_leaves} for row in slopes],
        d_shown=d_shown,
        resets=steps.resets,
    )
    (d_state, d_initial), d_outputs = sweep(
        anatomy, transposed, recurrence, (carry.state, carry.initial), reverse=not reverse
    )

    # Over rows from here on: a product that contracts two axes is laid out badly.
    d_products = _rows([_spread(pack, d_outputs) for pack in recurrence.packed])
    operands = _rows(anatomy.evaluate(precise, inputs)[1])
    d_weights = [
        total + _weights_gradient(operand, d_product, steps.xs.dtype, layout)
        for total, operand, d_product in zip(carry.weights, operands, d_products, strict=True)
    ]
    d_direct = _rows([_gather(slopes, d_outputs, at) for at in anatomy.direct_inputs])
    if layout.apart:
        d_sums = [
            _rows([_gather(slopes, d_outputs, at) for at in anatomy.sums_of(product)])
            for product in range(len(anatomy.widths))
        ]
        d_sums, d_direct = lax.optimization_barrier((d_sums, d_direct))
    else:
        d_sums = [
            jnp.split(d_product, width, axis=-1)
            for d_product, width in zip(d_products, anatomy.widths, strict=True)
        ]
    d_vectors = [
        jnp.split(jnp.sum(d_product, axis=0), width)
        for d_product, width in zip(d_products, anatomy.widths, strict=True)
    ]
    d_cell_read, d_xs = _pull_projected(
        cell, anatomy, _rows(inputs), steps.xs, d_sums, d_vectors, d_direct
    )
    d_cell = jax.tree.map(lambda *d: sum(d[1:], d[0]), carry.cell, d_cell_read, d_cell_shown)
    return Cotangents(d_state, d_initial, d_weights, d_cell), d_xs


def _inputs(
    precise: AffineCell,
    anatomy: Anatomy,
    initial: State,
    block: Block,
    kept: Kept,
    *,
    reverse: bool,
) -> Leaves:
    """What the cell's elementwise part read, see :class:`~gru_jax._autodiff.step_graph.Anatomy`."""
    steps = block.steps
    previous = jax.tree.map(
        lambda first, states: _shift(first, states, reverse=reverse), block.before, kept.states
    )
    if steps.resets is not None:
        everywhere = jax.tree.map(lambda i, h: jnp.broadcast_to(i, h.shape), initial, previous)
        previous = select(steps.resets, everywhere, previous)
    previous = wide(previous, steps.xs.dtype)
    sums, direct = kept.sums, kept.direct
    if sums is None or direct is None:
        projected = precise.project(steps.xs) if kept.projected is None else kept.projected
        sums, direct = record(precise, previous, projected)[1], anatomy.pick_direct(projected)
    return [*jax.tree.leaves(previous), *jax.tree.leaves(sums), *direct]


def _pull_shown(
    cell: AffineCell, anatomy: Anatomy, block: Block, kept: Kept
) -> tuple[AffineCell, dict[int, Array]]:
    """The cotangents that come from the steps' own outputs, of the cell and of the states."""
    dtype = block.steps.xs.dtype
    _, pull = jax.vjp(
        lambda cell, states: show(cell, states, block.steps.valid, dtype), cell, kept.states
    )
    d_cell, d_states = pull(block.d_ys)
    return d_cell, {
        index: leaf.astype(accum_dtype(dtype))
        for index, leaf in enumerate(jax.tree.leaves(d_states))
        if index in anatomy.shown
    }


def _pull_projected(
    cell: AffineCell,
    anatomy: Anatomy,
    inputs: Leaves,
    xs: Array,
    d_sums: list[Leaves],
    d_vectors: list[Leaves],
    d_direct: Leaves,
) -> tuple[AffineCell, Array]:
    """The cotangents of the cell and of its inputs, by what is projected, which are rows.

    Those of sums are those of what is added, too, and ``d_vectors`` where that is a vector.
    """
    dtype = xs.dtype
    previous = jax.tree.unflatten(anatomy.state, inputs[: anatomy.state.num_leaves])
    sums = [
        tuple(inputs[at] for at in anatomy.sums_of(product))
        for product in range(len(anatomy.widths))
    ]

    def read(cell: AffineCell, xs: Array) -> tuple[Any, Leaves]:
        precise = cast_params(cell, dtype)
        projected = precise.project(xs)
        return addends_of(precise, previous, projected, sums), anatomy.pick_direct(projected)

    (addends, _), pull = jax.vjp(read, cell, _rows(xs))
    d_addends = [
        [
            None if addend is None else (d_vector if addend.ndim == 1 else d_sum)
            for addend, d_sum, d_vector in zip(*of_product, strict=True)
        ]
        for of_product in zip(addends, d_sums, d_vectors, strict=True)
    ]
    d_cell, d_xs = pull((d_addends, d_direct))
    return d_cell, d_xs.reshape(xs.shape)


def sweep(
    anatomy: Anatomy,
    transposed: Leaves,
    recurrence: Recurrence,
    carry: SweepCarry,
    *,
    reverse: bool,
) -> Swept:
    """A :class:`Sweep` as a loop of JAX's, for every affine cell."""
    back = _back(anatomy, transposed)
    first = jax.tree.map(lambda leaf: leaf[0], recurrence)
    begin = settle(lambda carry: back(carry, first)[0], carry)
    carry, d_outputs = lax.scan(back, begin, recurrence, reverse=reverse)
    return carry, dict(enumerate(d_outputs))


def sweep_parts(
    anatomy: Anatomy,
    transposed: Leaves,
    recurrence: Recurrence,
    carry: SweepCarry,
    *,
    parts: Parts,
    reverse: bool,
) -> Swept:
    """:func:`sweep` for parts of the batch that run at the same time, without resets."""

    def apart(transposed: Leaves, recurrence: Recurrence, carry: SweepCarry) -> Swept:
        back = _back(anatomy, transposed)
        finished, zero = scan_parts(back, carry, recurrence, parts, reverse=reverse)
        d_outputs = join([part.outputs for part in finished], axis=1)
        return join([part.last for part in finished]), dict(enumerate(after(zero, d_outputs)))

    def whole(transposed: Leaves, recurrence: Recurrence, carry: SweepCarry) -> Swept:
        return sweep(anatomy, transposed, recurrence, carry, reverse=reverse)

    return with_reference_fallback(apart, whole)(transposed, recurrence, carry)


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


def _weights_gradient(operand: Array, d_product: Array, dtype: DType, layout: Layout) -> Array:
    """``operand^T @ d_product``, from operands in ``dtype``, in the dtype of gate arithmetic."""
    transposed = operand.astype(dtype).T
    rows, columns = d_product.shape
    if are_known((rows, columns)) and 0 < rows <= layout.transposed_rows * columns:
        transposed = lax.optimization_barrier(transposed)
    return jnp.matmul(
        transposed, d_product.astype(dtype), preferred_element_type=accum_dtype(dtype)
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
