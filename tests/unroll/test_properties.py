"""What must hold for every kind of cell, at any size and for any lengths, mask and starts."""

from itertools import pairwise, product

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gru_jax
from tests import reference
from tests.assert_trees import assert_close, assert_equal
from tests.cells.cases import GATED_CASES, GRU_AFTER, LSTM, Case, Problem
from tests.shapes import ProblemSize
from tests.slow import slow_but

# Few sizes, so that most examples find their function compiled; one test has all of them.
TIMES = (1, 4)
BATCHES = ((), (2, 2))
ALL_BATCHES = ((), (1,), (2,), (3,), (2, 2), (1, 3))
ALL_SIZES = tuple(product(range(1, 6), repeat=2))

every_gated_case = pytest.mark.parametrize("case", GATED_CASES, ids=str)
# All equal the reference; that the laws hold for it, too, one cell shows, which has two states.
one_gated_case = pytest.mark.parametrize("case", slow_but([LSTM], GATED_CASES), ids=str)
some = settings(max_examples=10, deadline=None)
more = settings(max_examples=20, deadline=None)
many = settings(max_examples=50, deadline=None)


compiled = jax.jit(gru_jax.unroll, static_argnames="reverse")


def unroll(problem: Problem, **controls):
    """The final state's leaves and the outputs, as NumPy arrays."""
    last, ys = jax.device_get(compiled(*problem.inputs("float64"), **controls))
    return tuple(jax.tree.leaves(last)), ys


def sample_problem(data, case: Case, *, batches=BATCHES, times=TIMES, sizes=((2, 3),)) -> Problem:
    """A problem with a learned initial state, which differs from the one that is passed."""
    time, batch, (features, hidden) = (
        data.draw(st.sampled_from(choices), name)
        for name, choices in {"time": times, "batch": batches, "sizes": sizes}.items()
    )
    seed = data.draw(st.integers(0, 2**16), "seed")
    return Problem.sample(case, ProblemSize(time, batch, features, hidden), seed, learned_h0=True)


def sample_flags(data, problem: Problem, label: str) -> np.ndarray:
    return data.draw(arrays(np.bool_, problem.xs.shape[:-1]), label)


def sample_lengths(data, problem: Problem) -> np.ndarray:
    time, *batch, _ = problem.xs.shape
    return data.draw(arrays(np.int32, tuple(batch), elements=st.integers(0, time)), "lengths")


def sample_controls(data, problem: Problem) -> dict[str, np.ndarray]:
    return {
        "lengths": sample_lengths(data, problem),
        "mask": sample_flags(data, problem, "mask"),
        "starts": sample_flags(data, problem, "starts"),
    }


def restricted(problem: Problem, inside: slice, state: reference.State) -> Problem:
    """The segment ``inside`` of a single sequence, begun in another state."""
    return Problem(**{**vars(problem), "xs": problem.xs[inside], "state": state})


@every_gated_case
@given(data=st.data())
@more
@jax.enable_x64(True)
def test_equals_the_reference(case, data):
    compare_with_the_reference(case, data)


@pytest.mark.slow
@every_gated_case
@given(data=st.data())
@many
@jax.enable_x64(True)
def test_many_examples_equal_the_reference(case, data):
    compare_with_the_reference(case, data)


def compare_with_the_reference(case, data):
    problem = sample_problem(data, case, batches=ALL_BATCHES, times=range(1, 9), sizes=ALL_SIZES)
    controls = sample_controls(data, problem) | {"reverse": data.draw(st.booleans(), "reverse")}
    expected = reference.unroll(case.step, problem.weights, problem.xs, problem.state, **controls)
    assert_close(unroll(problem, **controls), expected, "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_packed_equals_padded(case, data):
    """Sequences end to end in one row, whose end is masked, or in a batch with padding."""
    problem = sample_problem(data, case, batches=((3,),))
    lengths = np.maximum(1, sample_lengths(data, problem))
    reverse = data.draw(st.booleans(), "reverse")
    cell = problem.inputs("float64")[0]

    packed = np.full((problem.xs[..., 0].size, problem.xs.shape[-1]), np.nan)
    rows = [problem.xs[:length, i] for i, length in enumerate(lengths)]
    packed[: lengths.sum()] = np.concatenate(rows)
    borders = np.cumsum(lengths)
    steps = np.arange(len(packed))
    starts, mask = np.isin(steps, borders[:-1]), steps < borders[-1]
    last, ys = compiled(cell, packed, starts=starts, mask=mask, reverse=reverse)
    padded_last, padded_ys = compiled(cell, problem.xs, lengths=lengths, reverse=reverse)
    padded_ys = np.asarray(padded_ys)

    for i, own_ys in enumerate(np.split(ys, borders)[:-1]):
        assert_close(own_ys, padded_ys[: lengths[i], i], "float64")
    read_last = 0 if reverse else 2
    assert_close(last, jax.tree.map(lambda leaf: leaf[read_last], padded_last), "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_windows_equal_one_pass(case, data):
    problem = sample_problem(data, case)
    controls = sample_controls(data, problem)
    window = data.draw(st.integers(1, len(problem.xs) + 1), "window")
    cell, _, state = problem.inputs("float64")

    outputs = []
    for arguments in gru_jax.tbptt_windows(problem.xs, window, **controls):
        state, ys = compiled(cell, h0=state, **arguments)
        outputs.append(ys)
    streamed = tuple(jax.tree.leaves(state)), np.concatenate(outputs)
    assert_close(streamed, unroll(problem, **controls), "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_split_anywhere_equals_one_pass(case, data):
    """In reverse, the later segment comes first."""
    problem = sample_problem(data, case)
    mask = sample_flags(data, problem, "mask")
    border = data.draw(st.integers(0, len(problem.xs)), "border")
    reverse = data.draw(st.booleans(), "reverse")
    cell, _, state = problem.inputs("float64")

    segments = [slice(None, border), slice(border, None)]
    outputs = []
    for inside in reversed(segments) if reverse else segments:
        state, ys = compiled(cell, problem.xs[inside], state, mask=mask[inside], reverse=reverse)
        outputs.append(ys)
    whole = np.concatenate(outputs[::-1] if reverse else outputs)
    streamed = tuple(jax.tree.leaves(state)), whole
    assert_close(streamed, unroll(problem, mask=mask, reverse=reverse), "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_length_equals_truncation(case, data):
    problem = sample_problem(data, case, batches=((),))
    length = sample_lengths(data, problem)
    mask, starts = (sample_flags(data, problem, name) for name in ("mask", "starts"))
    reverse = data.draw(st.booleans(), "reverse")
    inside = slice(None, int(length))

    last, ys = unroll(problem, lengths=length, mask=mask, starts=starts, reverse=reverse)
    truncated = unroll(
        restricted(problem, inside, problem.state),
        mask=mask[inside],
        starts=starts[inside],
        reverse=reverse,
    )
    assert_close((last, ys[inside]), truncated, "float64")
    assert not ys[int(length) :].any()


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_lengths_equal_a_mask(case, data):
    problem = sample_problem(data, case)
    lengths = sample_lengths(data, problem)
    reverse = data.draw(st.booleans(), "reverse")
    steps = np.arange(len(problem.xs)).reshape(-1, *(1 for _ in lengths.shape))
    assert_equal(
        unroll(problem, lengths=lengths, reverse=reverse),
        unroll(problem, mask=steps < lengths[None], reverse=reverse),
    )


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_reverse_equals_flip(case, data):
    """In reverse, a segment is entered one step before the start of the next one."""
    problem = sample_problem(data, case)
    mask, starts = (sample_flags(data, problem, name) for name in ("mask", "starts"))
    entered = np.concatenate([np.zeros_like(starts[:1]), starts[:0:-1]])
    flipped = Problem(**{**vars(problem), "xs": problem.xs[::-1]})

    last, ys = unroll(problem, mask=mask, starts=starts, reverse=True)
    flipped_last, flipped_ys = unroll(flipped, mask=mask[::-1], starts=entered)
    assert_close((last, ys), (flipped_last, flipped_ys[::-1]), "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_starts_equal_splitting(case, data):
    """The first segment of the scan begins with the passed state; starts[0] replaces it."""
    problem = sample_problem(data, case, batches=((),))
    starts = sample_flags(data, problem, "starts")
    reverse = data.draw(st.booleans(), "reverse")
    initial = reference.initial_state(case.step, problem.weights)
    last, ys = unroll(problem, starts=starts, reverse=reverse)

    borders = [0, *(np.flatnonzero(starts[1:]) + 1), len(starts)]
    segments = [slice(begin, end) for begin, end in pairwise(borders)]
    if reverse:
        segments = segments[::-1]
    state = initial if starts[0] and not reverse else problem.state
    for segment in segments:
        alone = restricted(problem, segment, state)
        segment_last, segment_ys = unroll(alone, reverse=reverse)
        assert_close(ys[segment], segment_ys, "float64")
        state = initial
    assert_close(last, segment_last, "float64")


@pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], GATED_CASES), ids=str)
@given(data=st.data(), garbage=st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
@some
@jax.enable_x64(True)
def test_what_stands_at_masked_steps_changes_nothing(case, data, garbage):
    """Neither values nor any gradient, by not a single bit."""
    problem = sample_problem(data, case, times=(4,))
    controls = sample_controls(data, problem)
    steps = np.arange(4).reshape(-1, *(1 for _ in controls["lengths"].shape))
    unread = ~controls["mask"] | (steps >= controls["lengths"][None])
    clean, spoilt = problem.xs.copy(), problem.xs.copy()
    clean[unread], spoilt[unread] = 0, garbage
    reverse = data.draw(st.booleans(), "reverse")

    outcomes = [
        Problem(**{**vars(problem), "xs": xs}).run("float64", reverse=reverse, **controls)
        for xs in (clean, spoilt)
    ]
    assert_equal(outcomes[1], outcomes[0])
    assert not np.asarray(outcomes[1].gradients["xs"])[unread].any()
    assert not np.asarray(outcomes[1].ys)[unread].any()


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_sequences_are_independent(case, data):
    problem = sample_problem(data, case, batches=((4,),))
    controls = sample_controls(data, problem)
    order = np.array(data.draw(st.permutations(range(4)), "order"))

    def arrange(axis):
        return lambda array: np.take(array, order, axis)

    arranged = Problem(
        **{
            **vars(problem),
            "xs": arrange(1)(problem.xs),
            "state": tuple(map(arrange(0), problem.state)),
        }
    )
    last, ys = unroll(problem, **controls)
    expected = tuple(leaf[order] for leaf in last), ys[:, order]
    moved = {name: arrange(value.ndim - 1)(value) for name, value in controls.items()}
    assert_close(unroll(arranged, **moved), expected, "float64")


@one_gated_case
@given(data=st.data())
@some
@jax.enable_x64(True)
def test_batch_axes_are_only_axes(case, data):
    problem = sample_problem(data, case, batches=((2, 2),))
    controls = sample_controls(data, problem)
    time, *_, features = problem.xs.shape
    flat = Problem(
        **{
            **vars(problem),
            "xs": problem.xs.reshape(time, 4, features),
            "state": tuple(leaf.reshape(4, -1) for leaf in problem.state),
        }
    )
    last, ys = unroll(problem, **controls)
    shapes = {"lengths": (4,), "mask": (time, 4), "starts": (time, 4)}
    flat_controls = {name: value.reshape(shapes[name]) for name, value in controls.items()}
    flat_last, flat_ys = unroll(flat, **flat_controls)
    assert_close(flat_ys, ys.reshape(flat_ys.shape), "float64")
    assert_close(flat_last, tuple(leaf.reshape(4, -1) for leaf in last), "float64")
