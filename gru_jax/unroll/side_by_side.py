"""Loops over parts of a batch that XLA's CPU runtime runs at the same time, on a core each.

One loop keeps one core busy where its products are small: each step waits for the one before, and
a product of 32 rows is not worth handing out. Loops over parts of the batch do not wait for each
other. But XLA runs two loops at the same time only if neither writes a byte that the other uses,
and what a step computes on its way it puts into memory that all loops have in turn. So here a loop
owns all memory that it writes: what its products read and return is part of its carry, like all
that comes out of its steps.

XLA sees through that: it removes what nobody reads, makes one of what is equal, and copies where
it cannot tell which of two comes first. Hence :func:`_zero`, a number that it does not know to be
zero, and different numbers where any would do.

Where none of this helps, the loops give the same values one after another.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal, jaxpr_as_fun, jaxprs_in_params

from gru_jax.typing import Array

Leaves = list[Array]
TreeT = TypeVar("TreeT")
Parts = tuple[slice, ...]
"""Of a batch, one after another."""
WHOLE: Parts = (slice(None),)


class Loop(NamedTuple):
    """A scan whose states are kept.

    Attributes:
        body: ``(state, step) -> (next state, outputs)``, in arrays (rows, ...).
        state: the first one.
        read: what happens at a step, by its index.
        time: the number of steps, 1 or more.
        reverse: whether the last step comes first.
    """

    body: Callable[[Any, Any], tuple[Any, Any]]
    state: Any
    read: Callable[[Array], Any]
    time: int
    reverse: bool


class Finished(NamedTuple):
    """What a loop gives.

    Attributes:
        states: before all and after each step, (time + 1, rows, ...) in the order of time: the
            first state stands ahead of all others, with ``reverse`` behind them.
        outputs: of each step, (time, rows, ...).
    """

    states: Any
    outputs: Any


def run_side_by_side(loops: Sequence[Loop]) -> tuple[list[Finished], Array]:
    """Runs loops, and gives a zero that depends on all of them.

    Whoever reads a result should read the zero, too: else the memory of a loop that is at its end
    is taken for the next one, which then waits for it.
    """
    finished, carries = zip(*map(_run, loops), strict=True)
    return list(finished), _zero([leaf for carry in carries for leaf in carry])


def take(tree: TreeT, part: slice, *, axis: int = 0) -> TreeT:
    """A part of a batch, which is that axis of all arrays."""
    if (part,) == WHOLE:
        return tree
    return jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, part.start, part.stop, axis=axis), tree)


def join(trees: Sequence[TreeT], *, axis: int = 0) -> TreeT:
    """The whole batch, from its parts."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), *trees)


def step_of_part(steps: Any, index: Array, part: slice) -> Any:
    """What is read at a step, of arrays (time, batch, ...), by a part of the batch."""

    def of(leaf: Array) -> Array:
        start = (index, jnp.int32(part.start), *[jnp.int32(0)] * (leaf.ndim - 2))
        return lax.dynamic_slice(leaf, start, (1, part.stop - part.start, *leaf.shape[2:]))[0]

    return jax.tree.map(of, steps)


class _Carry(NamedTuple):
    """What a loop owns.

    Attributes:
        more: whether there is another step.
        number: of that step, in the order in which they come.
        state: ahead of it.
        states, outputs: all of them, (steps * rows, ...): an array that is written in place is
            read without a copy only where no reshape stands between.
        held: what the last step computed on its way.
    """

    more: Array
    number: Array
    state: Leaves
    states: Leaves
    outputs: Leaves
    held: Leaves


def _run(loop: Loop) -> tuple[Finished, Leaves]:
    time, reverse = loop.time, loop.reverse
    first, structure = jax.tree.flatten(loop.state)
    output_structure = None

    def advance(state: Leaves, index: Array) -> tuple[Leaves, Leaves, Leaves]:
        nonlocal output_structure
        before, step = jax.tree.unflatten(structure, state), loop.read(index)
        (new, outputs), held = _with_products(loop.body, before, step)
        leaves, output_structure = jax.tree.flatten(outputs)
        return jax.tree.leaves(new), leaves, held

    def body(carry: _Carry) -> _Carry:
        at = time - 1 - carry.number if reverse else carry.number
        new, outputs, held = advance(carry.state, at)
        after = at if reverse else at + 1
        states = list(map(_put, carry.states, new, [after] * len(new)))
        outputs = list(map(_put, carry.outputs, outputs, [at] * len(outputs)))
        # Only once all has been written is the next step's state read, over this one's.
        number = carry.number + 1 + _zero([*states, *outputs])
        before = time - number if reverse else number
        state = list(map(_row, states, first, [before] * len(first)))
        return _Carry(number < time, number, state, states, outputs, held)

    _, output_types, held_types = jax.eval_shape(advance, first, jnp.int32(0))
    # Two arrays of the same values would be made one, and copied.
    number = iter(range(1, 1 + len(output_types) + len(held_types)))

    def different(shape: tuple[int, ...], dtype: Any) -> Array:
        seed = first[0][(0,) * first[0].ndim]
        return jnp.full(shape, seed.astype(dtype) + jnp.asarray(next(number), dtype))

    states = [jnp.broadcast_to(leaf, (time + 1, *leaf.shape)) for leaf in first]
    start = _Carry(
        more=jnp.array(True),
        number=jnp.int32(0),
        state=first,
        states=[leaf.reshape(-1, *leaf.shape[2:]) for leaf in states],
        outputs=[
            different((time * leaf.shape[0], *leaf.shape[1:]), leaf.dtype) for leaf in output_types
        ],
        held=[different(leaf.shape, leaf.dtype) for leaf in held_types],
    )
    end = lax.while_loop(lambda carry: carry.more, body, start)
    states = [
        leaf.reshape(time + 1, *like.shape) for leaf, like in zip(end.states, first, strict=True)
    ]
    outputs = [
        leaf.reshape(time, *like.shape)
        for leaf, like in zip(end.outputs, output_types, strict=True)
    ]
    assert output_structure is not None
    finished = Finished(
        jax.tree.unflatten(structure, states), jax.tree.unflatten(output_structure, outputs)
    )
    return finished, [*end.state, *end.states, *end.outputs, *end.held]


def _zero(arrays: Sequence[Array]) -> Array:
    """A zero that depends on arrays, whatever they hold: nothing is greater than infinity."""
    total = jnp.int32(0)
    for array in arrays:
        first = array[(0,) * array.ndim]
        total += (jnp.abs(first) > jnp.asarray(jnp.inf, first.dtype)).astype(jnp.int32)
    return total


def _row(kept: Array, like: Array, index: Array) -> Array:
    """What :func:`_put` has put there."""
    return lax.dynamic_slice_in_dim(kept, index * like.shape[0], like.shape[0])


def _put(kept: Array, leaf: Array, index: Array) -> Array:
    leaf = leaf.astype(kept.dtype)
    return lax.dynamic_update_slice_in_dim(kept, leaf, index * leaf.shape[0], axis=0)


def _with_products(body: Callable[..., Any], state: Any, step: Any) -> tuple[Any, Leaves]:
    """What a body gives, and all that its products read, but for the state, and return."""
    closed, shape = jax.make_jaxpr(body, return_shape=True)(state, step)
    jaxpr = closed.jaxpr
    lie_elsewhere = {*jaxpr.constvars, *jaxpr.invars[: len(jax.tree.leaves(state))]}
    held = dict.fromkeys(
        atom
        for equation in jaxpr.eqns
        if _has_product(equation)
        for atom in (*equation.invars, *equation.outvars)
        if not isinstance(atom, Literal) and atom not in lie_elsewhere
    )
    wider = jaxpr.replace(
        outvars=[*jaxpr.outvars, *held], debug_info=jaxpr.debug_info.with_unknown_names()
    )
    values = jaxpr_as_fun(closed.replace(jaxpr=wider))(*jax.tree.leaves((state, step)))
    count = len(jaxpr.outvars)
    return jax.tree.unflatten(jax.tree.structure(shape), values[:count]), values[count:]


def _has_product(equation: JaxprEqn) -> bool:
    return equation.primitive.name == "dot_general" or any(
        _has_product(inner) for jaxpr in jaxprs_in_params(equation.params) for inner in jaxpr.eqns
    )
