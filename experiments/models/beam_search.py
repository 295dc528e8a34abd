"""Beam search: the likeliest sequences of a model that gives one symbol after another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Next = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class Beam(NamedTuple):
    """What `beam_search` has after a step, K hypotheses for each of N searches.

    Attributes:
        symbols: (N, K, length) int32, filled with the end symbol.
        log_probability: (N, K) float32, of the symbols up to the end symbol, and it too.
        lengths: (N, K) int32, symbols before the end symbol.
    """

    symbols: jax.Array
    log_probability: jax.Array
    lengths: jax.Array


def beam_search(
    next_log_probabilities: Next,
    state: Any,
    *,
    number: int,
    beams: int,
    length: int,
    begin: int,
    end: int,
    length_penalty: float = 1.0,
) -> Beam:
    """Searches for likely sequences, keeping the `beams` likeliest beginnings at every step.

    A hypothesis that has come to its end keeps its place until more likely ones take it. At the
    end all are ordered by log-probability over length ** `length_penalty` (Wu et al. 2016, arXiv
    1609.08144, section 7, without their constants).

    Args:
        next_log_probabilities: (state, symbols (N, K)) -> log-probabilities (N, K, symbols) of
            what follows, and the state after it.
        state: before the first symbol; leaves (N, K, ...).
        number: N, searches side by side.
        beams: K, hypotheses of each.
        length: of the longest sequence.
        begin: the symbol before the first.
        end: the symbol after the last; no sequence holds it.
        length_penalty: see above; 0 orders by log-probability alone.

    Returns:
        The hypotheses, best first.
    """

    def is_going_on(loop: tuple[jax.Array, Any, Beam, jax.Array, jax.Array]) -> jax.Array:
        at, _, _, _, ended = loop
        return (at < length) & ~ended.all()

    def step(
        loop: tuple[jax.Array, Any, Beam, jax.Array, jax.Array],
    ) -> tuple[jax.Array, Any, Beam, jax.Array, jax.Array]:
        at, state, beam, last, ended = loop
        following, state = next_log_probabilities(state, last)
        size = following.shape[-1]
        # After its end a hypothesis goes on with the end symbol alone, which costs nothing.
        stays = jnp.where(jnp.arange(size) == end, 0.0, -jnp.inf)
        following = jnp.where(ended[..., None], stays, following)
        # No hypothesis has more than `beams` successors among the best.
        each, symbols = jax.lax.top_k(following, min(beams, size))
        total = (beam.log_probability[..., None] + each).reshape(number, -1)
        best, place = jax.lax.top_k(total, beams)
        parent = place // each.shape[-1]

        def of_parent(leaf: jax.Array) -> jax.Array:
            index = parent.reshape(number, beams, *(1,) * (leaf.ndim - 2))
            return jnp.take_along_axis(leaf, index, axis=1)

        last = jnp.take_along_axis(symbols.reshape(number, -1), place, axis=1)
        ended = of_parent(ended) | (last == end)
        lengths = of_parent(beam.lengths) + (~ended).astype(jnp.int32)
        beam = Beam(of_parent(beam.symbols).at[:, :, at].set(last), best, lengths)
        return at + 1, jax.tree.map(of_parent, state), beam, last, ended

    shape = (number, beams)
    # All hypotheses begin alike: one of them is enough, the others would be its copies.
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    beam = Beam(
        jnp.full((*shape, length), end, jnp.int32),
        jnp.broadcast_to(first, shape),
        jnp.zeros(shape, jnp.int32),
    )
    start = (jnp.int32(0), state, beam, jnp.full(shape, begin, jnp.int32), jnp.zeros(shape, bool))
    _, _, beam, _, _ = jax.lax.while_loop(is_going_on, step, start)
    score = beam.log_probability / (beam.lengths + 1).astype(jnp.float32) ** length_penalty
    order = jnp.argsort(-score, axis=1)
    return Beam(
        jnp.take_along_axis(beam.symbols, order[..., None], axis=1),
        jnp.take_along_axis(beam.log_probability, order, axis=1),
        jnp.take_along_axis(beam.lengths, order, axis=1),
    )
