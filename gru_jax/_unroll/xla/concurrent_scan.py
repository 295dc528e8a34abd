"""Scans over shards of a batch that XLA:CPU runs concurrently, one on each core.

XLA:CPU runs two while-loops concurrently only if their buffers do not alias, and by default it
assigns the loops' temporaries to the same buffer. This module therefore puts every intermediate
that XLA materialises into the loop carry, so that each loop owns its buffers. Opaque zeros, which
XLA cannot fold, keep its passes from undoing this. ``docs/design/concurrent-scan.md`` has the
passes. If none of this helps, the loops give the same values one after another.
"""

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

from gru_jax._compat import jaxprs_in_params
from gru_jax._unroll.backward.adjoint_scan import ScanConsts, ScanFn, lax_scan
from gru_jax._unroll.shards import Sharded, Shards, slice_batch, unshard
from gru_jax._unroll.transform_rules import with_reference_fallback
from gru_jax.typing import Array

Leaves = list[Array]
TreeT = TypeVar("TreeT")

_EXPENSIVE_OPS = {"tanh", "logistic", "exp", "exp2", "expm1", "log", "log1p", "div", "erf", "pow"}
_EXPENSIVE_OPS |= {"sqrt"}
"""Elementwise operations that XLA does not repeat for each of several readers."""


class ShardedScan(NamedTuple):
    """The result of a concurrent scan."""

    last: Any  # the carry after the last step, (batch, ...)
    ys: Any  # of all steps, leaves Sharded
    # A zero that depends on all loops. Whoever reads ys should also read an array that
    # add_dependency made depend on it. Otherwise XLA takes the buffers of a finished loop for the
    # initial values of the next one, which then waits for it.
    done: Array


def concurrent_scan(
    body: Callable[..., Any],
    consts: ScanConsts,
    init: Any,
    xs: Any,
    *,
    shards: Shards,
    reverse: bool,
) -> ShardedScan:
    """``lax.scan`` of ``body(consts, carry, x)``, of all shards of the batch concurrently.

    Under ``vmap`` and forward mode it is one ``lax.scan``. The body takes and returns arrays
    (rows, ...), for any number of rows. There is a step at least; the first input is floating.
    """

    def concurrent(consts: ScanConsts, init: Any, xs: Any) -> ShardedScan:
        @jax.jit  # It is traced once for all shards of a size.
        def run(batched: Any, init: Any, xs: Any, start: Array) -> Any:
            of_shard = ScanConsts(consts.shared, batched)
            return _run(functools.partial(body, of_shard), init, xs, start, reverse=reverse)

        loops = [
            run(*slice_batch((consts.batched, init), rows), xs, jnp.int32(rows.start))
            for rows in shards
        ]
        ends, owned = zip(*loops, strict=True)
        done = _compute_once(_opaque_zero(owned)).astype(jnp.int32)
        time = jax.tree.leaves(xs)[0].shape[0]
        last_index = _index(time - 1, time, reverse) + done
        ends = jax.tree.map(lambda leaf: leaf.reshape(time, -1, *leaf.shape[1:]), ends)
        carries, ys = zip(*ends, strict=True)
        lasts = jax.tree.map(lambda leaf: leaf[last_index], carries)
        last = jax.tree.map(lambda *rows: jnp.concatenate(rows), *lasts)
        return ShardedScan(last, jax.tree.map(lambda *leaves: Sharded(list(leaves)), *ys), done)

    def plain(consts: ScanConsts, init: Any, xs: Any) -> ShardedScan:
        last, ys = lax_scan(body, consts, init, xs, reverse=reverse)

        def split(leaf: Array) -> Sharded:
            return Sharded([slice_batch(leaf, rows, axis=1) for rows in shards])

        return ShardedScan(last, jax.tree.map(split, ys), jnp.int32(0))

    return with_reference_fallback(concurrent, plain)(consts, init, xs)


def concurrent_scan_fn(shards: Shards) -> ScanFn:
    """A :class:`ScanFn` that runs shards concurrently and joins their outputs."""

    def scan_fn(body: Any, consts: Any, init: Any, xs: Any, *, reverse: bool) -> tuple[Any, Any]:
        scanned = concurrent_scan(body, consts, init, xs, shards=shards, reverse=reverse)
        return scanned.last, add_dependency(unshard(scanned.ys), scanned.done)

    return scan_fn


def add_dependency(tree: TreeT, zero: Array) -> TreeT:
    """The same arrays, available once ``zero`` is known."""
    return jax.tree.map(lambda leaf: jnp.where(zero == 0, leaf, jnp.ones_like(leaf)), tree)


class _Carry(NamedTuple):
    """The buffers that a loop owns."""

    keep_going: Array  # whether there is another step
    iteration: Array  # the number of that step, in the order of reading
    state: Any  # the carry of the scan before that step
    # Distinct carries and outputs of all steps, (T * rows, ...). An array that is written in place
    # is read without a copy only if no reshape stands between.
    out_buffers: Leaves
    scratch_buffers: Leaves  # intermediates of the last step


def _run(
    body: Callable[..., Any], state: Any, xs: Any, start: Array, *, reverse: bool
) -> tuple[tuple[Any, Any], Any]:
    """One loop: carries and outputs of all steps, and the buffers it owns until all loops end.

    Leaves are (T * rows, ...). It runs over as many rows of the batch as ``state`` has, from
    ``start`` on.
    """
    rows, time = (jax.tree.leaves(tree)[0].shape[0] for tree in (state, xs))

    def read(index: Array) -> Any:
        def read_leaf(leaf: Array) -> Array:
            at = (index, start, *[jnp.int32(0)] * (leaf.ndim - 2))
            sizes = (1, rows, *leaf.shape[2:])
            return lax.dynamic_slice(leaf, at, sizes, allow_negative_indices=False)[0]

        return jax.tree.map(read_leaf, xs)

    # Whatever initialises a loop depends on a scalar of its own. What is left to do once that is
    # known exceeds what the runtime leaves to one thread: it splits the work, and so the loops. The
    # scalar has to come from the input that is available last; otherwise both loops begin when that
    # is, on one thread.
    first = read(jnp.int32(0))
    leaf = jax.tree.leaves(first)[0]
    opaque_scalar = _compute_once(leaf[(0,) * leaf.ndim])
    zero = _opaque_zero(opaque_scalar)
    step = _expose_intermediates(body, state, first)

    def advance(carry: _Carry) -> _Carry:
        at = _index(carry.iteration, time, reverse)
        new, scratch = step.run(carry.state, read(at))

        def write(buffer: Array, leaf: Array) -> Array:
            first = at * leaf.shape[0]
            return lax.dynamic_update_slice_in_dim(
                buffer, leaf, first, axis=0, allow_negative_indices=False
            )

        buffers = list(map(write, carry.out_buffers, new))
        # The next step's state is read over this one's, and only once all has been written.
        iteration = carry.iteration + 1 + _opaque_zero(buffers)
        written = _index(iteration - 1, time, reverse)

        def read_back(buffer: Array, leaf: Array) -> Array:
            rows = leaf.shape[0]
            return lax.dynamic_slice_in_dim(
                buffer, written * rows, rows, allow_negative_indices=False
            )

        state = jax.tree.map(read_back, step.unflatten(buffers)[0], step.unflatten(new)[0])
        return _Carry(iteration < time, iteration, state, buffers, scratch)

    # Buffers of one shape are copies of one, which needs no kernel of its own, but not shared.
    def filled(leaf: Any, copies: int = 1) -> Array:
        return jnp.full((copies * leaf.shape[0], *leaf.shape[1:]), opaque_scalar.astype(leaf.dtype))

    out_buffers = [filled(aval, time) for aval in step.out_avals]
    scratch_buffers = list(map(filled, step.scratch_avals))
    begin = _Carry(zero == 0, zero, add_dependency(state, zero), out_buffers, scratch_buffers)
    end = lax.while_loop(lambda carry: carry.keep_going, advance, begin)
    owned = (opaque_scalar, state, end.state, end.out_buffers, end.scratch_buffers)
    return step.unflatten(end.out_buffers), owned


def _index(iteration: Any, time: int, reverse: bool) -> Any:
    """The time of an iteration."""
    return time - 1 - iteration if reverse else iteration


def _opaque_zero(tree: Any) -> Array:
    """A zero that depends on arrays, whatever they hold: nothing is greater than infinity."""
    total = jnp.int32(0)
    for array in jax.tree.leaves(tree):
        first = array[(0,) * array.ndim]
        total += (jnp.abs(first) > jnp.asarray(jnp.inf, first.dtype)).astype(jnp.int32)
    return total


def _compute_once(scalar: Array) -> Array:
    """A scalar that XLA computes once and stores: it does not repeat a tanh for each reader."""
    return jnp.tanh(scalar.astype(jnp.float32))


class _Step(NamedTuple):
    """A scan's body, opened up."""

    run: Callable[[Any, Any], tuple[Leaves, Leaves]]  # (carry, x) -> distinct leaves, scratch
    out_avals: list[Any]  # types of the distinct leaves of carry and outputs
    scratch_avals: list[Any]  # types of the intermediates
    unflatten: Callable[[Leaves], tuple[Any, Any]]  # distinct leaves as (carry, outputs)


def _expose_intermediates(body: Callable[..., Any], state: Any, x: Any) -> _Step:
    """A body that also returns the intermediates that XLA materialises."""
    closed, shapes = jax.make_jaxpr(body, return_shape=True)(state, x)
    jaxpr = closed.jaxpr
    # An output that is part of the carry, too, is written once.
    distinct = list({id(atom): atom for atom in jaxpr.outvars}.values())
    owned_elsewhere = {*jaxpr.constvars, *jaxpr.invars[: len(jax.tree.leaves(state))]}
    scratch = [var for var in _materialized_vars(jaxpr) if var not in owned_elsewhere]
    names = jaxpr.debug_info.with_unknown_names()
    wider = jaxpr.replace(outvars=[*distinct, *scratch], debug_info=names)
    evaluate = jaxpr_as_fun(closed.replace(jaxpr=wider))

    def run(state: Any, x: Any) -> tuple[Leaves, Leaves]:
        values = evaluate(*jax.tree.leaves((state, x)))
        return values[: len(distinct)], values[len(distinct) :]

    def unflatten(leaves: Leaves) -> tuple[Any, Any]:
        of = {id(atom): leaf for atom, leaf in zip(distinct, leaves, strict=True)}
        return jax.tree.unflatten(jax.tree.structure(shapes), [of[id(a)] for a in jaxpr.outvars])

    avals = [atom.aval for atom in (*distinct, *scratch)]
    return _Step(run, avals[: len(distinct)], avals[len(distinct) :], unflatten)


def _materialized_vars(jaxpr: Jaxpr) -> list[Var]:
    """Operands and results of matmuls, and expensive values that several of those or outputs read.

    XLA computes all else where it is read, once for each reader.
    """
    found: dict[Var, None] = {}
    readers = {variable: {variable} for variable in _variables(jaxpr.outvars)}
    for equation in reversed(jaxpr.eqns):
        read = _variables(equation.invars)
        of_results = set().union(*(readers.get(variable, ()) for variable in equation.outvars))
        if _contains(equation, {"dot_general"}):
            found |= dict.fromkeys([*read, *equation.outvars])
            readers |= {variable: readers.get(variable, set()) | {variable} for variable in read}
            continue
        if len(of_results) > 1 and _contains(equation, _EXPENSIVE_OPS):
            found |= dict.fromkeys(equation.outvars)
        readers |= {variable: readers.get(variable, set()) | of_results for variable in read}
    return list(found)


def _variables(atoms: Iterable[Any]) -> list[Var]:
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def _contains(equation: JaxprEqn, names: Collection[str]) -> bool:
    within = [inner for jaxpr in jaxprs_in_params(equation.params) for inner in jaxpr.eqns]
    return equation.primitive.name in names or any(_contains(inner, names) for inner in within)
