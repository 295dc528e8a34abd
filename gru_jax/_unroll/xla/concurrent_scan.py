"""Loops over parts of a batch that XLA's CPU runtime runs at the same time, on a core each.

One loop keeps one core busy where its products are small: each step waits for the one before, and
a product of 32 rows is not worth handing out. Loops over parts of the batch do not wait for each
other. But XLA runs two loops at the same time only if neither writes a byte that the other uses,
and what a step computes on its way it puts into memory that all loops have in turn. So here a loop
owns all memory that it writes: what XLA stores between two of its operations is part of its carry,
like all that comes out of its steps.

XLA sees through that: it removes what nobody reads, makes one of what is equal, and copies where
it cannot tell which of two comes first. Hence :func:`_zero`, a number that it does not know to be
zero, and different numbers where any would do.

Where none of this helps, the loops give the same values one after another.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun, jaxprs_in_params

from gru_jax.typing import Array

Leaves = list[Array]
TreeT = TypeVar("TreeT")
Parts = tuple[slice, ...]
"""Of a batch, one after another."""
WHOLE: Parts = (slice(None),)

_COSTLY = {"tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "div", "erf", "pow", "sqrt"}
"""Elementwise operations that XLA does not repeat for each of several readers."""


class Finished(NamedTuple):
    """What a loop over a part of a batch gives.

    Attributes:
        last: the state after the last step, (rows, ...).
        states: after each step, (time, rows, ...).
        outputs: of each step, likewise.
    """

    last: Any
    states: Any
    outputs: Any


def scan_parts(
    body: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    steps: Any,
    parts: Parts,
    *,
    reverse: bool,
) -> tuple[list[Finished], Array]:
    """Scans that keep their states, of all parts of a batch at the same time.

    Args:
        body: ``(state, step) -> (next state, outputs)``, in arrays (rows, ...).
        state: the first one, (batch, ...).
        steps: one or more, (time, batch, ...); the first array is one of floats.
        parts: of the batch.
        reverse: whether the last step comes first.

    Returns:
        What came of each part, and a zero that depends on all of them. Whoever reads states or
        outputs should read something :func:`after` the zero, too: else the memory of a loop that
        is at its end is taken for what the next one begins with, and that one waits for it.
    """
    # It is traced once for all parts of a size.
    run = jax.jit(functools.partial(_run, body, reverse=reverse))
    ends, owned = zip(
        *(run(take(state, part), steps, jnp.int32(part.start)) for part in parts), strict=True
    )
    zero = _once(_zero(owned)).astype(jnp.int32)
    time = jax.tree.leaves(steps)[0].shape[0]
    last = _index(time - 1, time, reverse) + zero

    def finish(end: _Carry) -> Finished:
        states, outputs = jax.tree.map(
            lambda kept: kept.reshape(time, -1, *kept.shape[1:]), end.kept
        )
        return Finished(jax.tree.map(lambda leaf: leaf[last], states), states, outputs)

    return list(map(finish, ends)), zero


def after(zero: Array, tree: TreeT) -> TreeT:
    """The same arrays, once a zero is known."""
    return jax.tree.map(lambda leaf: jnp.where(zero == 0, leaf, jnp.ones_like(leaf)), tree)


def take(tree: TreeT, part: slice, *, axis: int = 0) -> TreeT:
    """A part of a batch, which is that axis of all arrays."""
    return jax.tree.map(lambda leaf: lax.slice_in_dim(leaf, part.start, part.stop, axis=axis), tree)


def join(trees: Sequence[TreeT], *, axis: int = 0) -> TreeT:
    """The whole batch, from its parts."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=axis), *trees)


class _Carry(NamedTuple):
    """What a loop owns.

    Attributes:
        more: whether there is another step.
        number: of that step, in the order in which they come.
        state: ahead of it.
        kept: states and outputs of all steps, (time * rows, ...): an array that is written in place
            is read without a copy only where no reshape stands between.
        between: what the last step put into memory on its way.
    """

    more: Array
    number: Array
    state: Any
    kept: tuple[Any, Any]
    between: Leaves


def _run(
    body: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    steps: Any,
    start: Array,
    *,
    reverse: bool,
) -> tuple[_Carry, Any]:
    """A loop, and all memory that nothing else may have until all loops are at their ends.

    It is over as many rows of a batch as ``state`` has, from ``start`` on.
    """
    rows, time = (jax.tree.leaves(tree)[0].shape[0] for tree in (state, steps))

    def read(index: Array) -> Any:
        return _read(steps, index, start, rows)

    # All that is made ready for a loop waits for a number of its own. Once that is known, there is
    # more to be done than the runtime leaves to one thread: it divides it, and so the loops. It has
    # to be a number of what they read last, or they begin when that is there, both on one thread.
    first = read(jnp.int32(0))
    leaf = jax.tree.leaves(first)[0]
    seed = _once(leaf[(0,) * leaf.ndim])
    zero = _zero(seed)
    advance, kept, between = _with_steps_between(body, state, first)

    def step(carry: _Carry) -> _Carry:
        at = _index(carry.number, time, reverse)
        new, between = advance(carry.state, read(at))
        kept = jax.tree.map(functools.partial(_put, at=at), carry.kept, new)
        # Only once all has been written is the next step's state read, over this one's.
        number = carry.number + 1 + _zero(kept)
        at = _index(number - 1, time, reverse)
        state = jax.tree.map(functools.partial(_row, at=at), kept[0], new[0])
        return _Carry(number < time, number, state, kept, between)

    # Arrays of one shape are copies of one, which takes no kernel to be compiled; but of one's own.
    def filled(leaf: Any, copies: int = 1) -> Array:
        return jnp.full((copies * leaf.shape[0], *leaf.shape[1:]), seed.astype(leaf.dtype))

    begin = _Carry(
        more=zero == 0,
        number=zero,
        state=after(zero, state),
        kept=jax.tree.map(lambda leaf: filled(leaf, time), kept),
        between=list(map(filled, between)),
    )
    end = lax.while_loop(lambda carry: carry.more, step, begin)
    return end, (seed, state, end.state, end.kept, end.between)


def _read(steps: Any, index: Array, start: Array, rows: int) -> Any:
    """Rows of a step."""

    def of(leaf: Array) -> Array:
        at = (index, start, *[jnp.int32(0)] * (leaf.ndim - 2))
        sizes = (1, rows, *leaf.shape[2:])
        return lax.dynamic_slice(leaf, at, sizes, allow_negative_indices=False)[0]

    return jax.tree.map(of, steps)


def _index(number: Any, time: int, reverse: bool) -> Any:
    """The step that comes after a number of others."""
    return time - 1 - number if reverse else number


def _zero(tree: Any) -> Array:
    """A zero that depends on arrays, whatever they hold: nothing is greater than infinity."""
    total = jnp.int32(0)
    for array in jax.tree.leaves(tree):
        first = array[(0,) * array.ndim]
        total += (jnp.abs(first) > jnp.asarray(jnp.inf, first.dtype)).astype(jnp.int32)
    return total


def _once(number: Array) -> Array:
    """What is costly is computed once and stored, not again by each of its readers."""
    return jnp.tanh(number.astype(jnp.float32))


def _row(kept: Array, like: Array, *, at: Array) -> Array:
    """What :func:`_put` has put there."""
    rows = like.shape[0]
    return lax.dynamic_slice_in_dim(kept, at * rows, rows, allow_negative_indices=False)


def _put(kept: Array, leaf: Array, *, at: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(
        kept, leaf, at * leaf.shape[0], axis=0, allow_negative_indices=False
    )


def _with_steps_between(
    body: Callable[..., Any], state: Any, step: Any
) -> tuple[Callable[[Any, Any], tuple[Any, Leaves]], Any, list[Any]]:
    """A body that gives, too, what XLA puts into memory on its way; and the types of both."""
    closed, types = jax.make_jaxpr(body, return_shape=True)(state, step)
    jaxpr = closed.jaxpr
    lie_elsewhere = {*jaxpr.constvars, *jaxpr.invars[: len(jax.tree.leaves(state))]}
    between = [variable for variable in _materialised(jaxpr) if variable not in lie_elsewhere]
    wider = jaxpr.replace(
        outvars=[*jaxpr.outvars, *between], debug_info=jaxpr.debug_info.with_unknown_names()
    )
    evaluate = jaxpr_as_fun(closed.replace(jaxpr=wider))

    def advance(state: Any, step: Any) -> tuple[Any, Leaves]:
        values = evaluate(*jax.tree.leaves((state, step)))
        count = len(jaxpr.outvars)
        return jax.tree.unflatten(jax.tree.structure(types), values[:count]), values[count:]

    return advance, types, [variable.aval for variable in between]


def _materialised(jaxpr: Jaxpr) -> list[Var]:
    """What products read and return, and what is costly and serves several of those or the results.

    All else XLA computes where it is read, again for each of several readers.
    """
    found: dict[Var, None] = {}
    serves = {variable: {variable} for variable in _variables(jaxpr.outvars)}
    for equation in reversed(jaxpr.eqns):
        read = _variables(equation.invars)
        served = set().union(*(serves.get(variable, ()) for variable in equation.outvars))
        if _contains(equation, {"dot_general"}):
            found |= dict.fromkeys([*read, *equation.outvars])
            serves |= {variable: serves.get(variable, set()) | {variable} for variable in read}
            continue
        if len(served) > 1 and _contains(equation, _COSTLY):
            found |= dict.fromkeys(equation.outvars)
        serves |= {variable: serves.get(variable, set()) | served for variable in read}
    return list(found)


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _contains(equation: JaxprEqn, names: Collection[str]) -> bool:
    return equation.primitive.name in names or any(
        _contains(inner, names)
        for jaxpr in jaxprs_in_params(equation.params)
        for inner in jaxpr.eqns
    )
