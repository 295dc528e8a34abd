"""Beam search: the most probable sequences of an autoregressive model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NextLogProbabilities = Callable[[Any, jax.Array], tuple[jax.Array, Any]]


class Beam(NamedTuple):
    """K hypotheses for each of N searches.

    Attributes:
        symbols: (N, K, length) int32, padded with the end symbol.
        log_probability: (N, K) float32, of the symbols up to and including the end symbol.
        lengths: (N, K) int32, number of symbols before the end symbol.
    """

    symbols: jax.Array
    log_probability: jax.Array
    lengths: jax.Array


def beam_search(
    next_log_probabilities: NextLogProbabilities,
    state: Any,
    *,
    num_searches: int,
    beams: int,
    length: int,
    begin: int,
    end: int,
    length_penalty: float = 1.0,
) -> Beam:
    """Searches for probable sequences, keeping the `beams` best prefixes at every step.

    A finished hypothesis stays in the beam until more probable ones displace it. The result is
    sorted by log-probability / length ** `length_penalty` (Wu et al. 2016, arXiv 1609.08144,
    section 7, without their constants).

    Args:
        next_log_probabilities: (state, symbols (N, K)) -> log-probabilities (N, K, symbols) of
            the next symbols, and the next state.
        state: the state before the first symbol; leaves (N, K, ...).
        num_searches: N, independent searches.
        beams: K, hypotheses per search.
        length: maximum length of a sequence.
        begin: the symbol before the first.
        end: the symbol that ends a sequence.
        length_penalty: see above; 0 sorts by log-probability.

    Returns:
        The hypotheses, best first.
    """

    def is_unfinished(loop: tuple[jax.Array, Any, Beam, jax.Array, jax.Array]) -> jax.Array:
        step, _, _, _, ended = loop
        return (step < length) & ~ended.all()

    def extend(
        loop: tuple[jax.Array, Any, Beam, jax.Array, jax.Array],
    ) -> tuple[jax.Array, Any, Beam, jax.Array, jax.Array]:
        step, state, beam, last, ended = loop
        log_probabilities, state = next_log_probabilities(state, last)
        size = log_probabilities.shape[-1]
        # A finished hypothesis can only repeat the end symbol, at no cost.
        only_end = jnp.where(jnp.arange(size) == end, 0.0, -jnp.inf)
        log_probabilities = jnp.where(ended[..., None], only_end, log_probabilities)
        # At most `beams` successors of one hypothesis are among the best.
        candidates, symbols = jax.lax.top_k(log_probabilities, min(beams, size))
        total = (beam.log_probability[..., None] + candidates).reshape(num_searches, -1)
        best, index = jax.lax.top_k(total, beams)
        parent = index // candidates.shape[-1]

        def of_parent(leaf: jax.Array) -> jax.Array:
            parents = parent.reshape(num_searches, beams, *(1,) * (leaf.ndim - 2))
            return jnp.take_along_axis(leaf, parents, axis=1)

        last = jnp.take_along_axis(symbols.reshape(num_searches, -1), index, axis=1)
        ended = of_parent(ended) | (last == end)
        lengths = of_parent(beam.lengths) + (~ended).astype(jnp.int32)
        beam = Beam(of_parent(beam.symbols).at[:, :, step].set(last), best, lengths)
        return step + 1, jax.tree.map(of_parent, state), beam, last, ended

    shape = (num_searches, beams)
    # All hypotheses are equal at first; only one of them may have successors.
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    beam = Beam(
        jnp.full((*shape, length), end, jnp.int32),
        jnp.broadcast_to(first, shape),
        jnp.zeros(shape, jnp.int32),
    )
    initial = (jnp.int32(0), state, beam, jnp.full(shape, begin, jnp.int32), jnp.zeros(shape, bool))
    _, _, beam, _, _ = jax.lax.while_loop(is_unfinished, extend, initial)
    score = beam.log_probability / (beam.lengths + 1).astype(jnp.float32) ** length_penalty
    order = jnp.argsort(-score, axis=1)
    return Beam(
        jnp.take_along_axis(beam.symbols, order[..., None], axis=1),
        jnp.take_along_axis(beam.log_probability, order, axis=1),
        jnp.take_along_axis(beam.lengths, order, axis=1),
    )
