"""Beam search equals exhaustive search if the beam is wide enough."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.beam_search import beam_search

SYMBOLS, LENGTH, END = 4, 4, 0
# The next symbol depends on the two before it, so every hypothesis needs its own state.
TABLE = jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(0), (SYMBOLS, SYMBOLS, SYMBOLS)))


def following(state, symbols):
    return TABLE[state, symbols], symbols


def search(beams, length_penalty=0.0):
    begin = 1
    return jax.jit(
        lambda state: beam_search(
            following,
            state,
            num_searches=2,
            beams=beams,
            length=LENGTH,
            begin=begin,
            end=END,
            length_penalty=length_penalty,
        )
    )(jnp.broadcast_to(jnp.array([[2], [3]]), (2, beams)))


def log_probability(first, sequence):
    before, last, total = first, 1, 0.0
    for symbol in sequence:
        total += float(TABLE[before, last, symbol])
        before, last = last, symbol
    return total


def all_sequences():
    for length in range(LENGTH + 1):
        for sequence in itertools.product(range(1, SYMBOLS), repeat=length):
            yield (*sequence, END) if length < LENGTH else sequence


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_sequence(length_penalty):
    found = search(len(list(all_sequences())), length_penalty)
    for number, first in enumerate([2, 3]):

        def score(sequence, first=first):
            length = sum(symbol != END for symbol in sequence)
            return log_probability(first, sequence) / (length + 1) ** length_penalty

        best = max(all_sequences(), key=score)
        expected = (*best, END)[:LENGTH] + (END,) * (LENGTH - len(best))
        np.testing.assert_array_equal(found.symbols[number, 0], expected[:LENGTH])
        assert np.isclose(found.log_probability[number, 0], log_probability(first, best), rtol=1e-5)


def test_a_beam_of_one_is_greedy_search():
    found = search(1)
    for number, first in enumerate([2, 3]):
        before, last, expected = first, 1, []
        while len(expected) < LENGTH and last != END:
            before, last = last, int(TABLE[before, last].argmax())
            expected.append(last)
        expected += [END] * (LENGTH - len(expected))
        np.testing.assert_array_equal(found.symbols[number, 0], expected)


def test_hypotheses_differ_and_have_the_right_log_probability():
    found = search(5)
    for number, first in enumerate([2, 3]):
        assert len({tuple(row) for row in np.asarray(found.symbols[number]).tolist()}) == 5
        for row, length, total in zip(
            found.symbols[number], found.lengths[number], found.log_probability[number], strict=True
        ):
            assert (row[:length] != END).all()
            assert (row[length:] == END).all()
            symbols = [int(symbol) for symbol in row[: length + 1]]
            assert np.isclose(total, log_probability(first, symbols), rtol=1e-5)
        assert (np.diff(found.log_probability[number]) <= 0).all()
