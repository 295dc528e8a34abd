"""One step of every cell: its values, its dtypes, and the arguments that it rejects."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests import reference
from tests.assert_trees import assert_close
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import SHAPES, ProblemSize
from tests.slow import slow

SMALL = ProblemSize(time=1, batch=(2,), input=3, hidden=4)


def one_step(problem: Problem, dtype: str) -> tuple[gru_jax.Cell, jax.Array, object]:
    cell, xs, state = problem.inputs(dtype)
    return cell, state, xs[0]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (SHAPES[0], "float32"),
        *((shape, "float64") for shape in SHAPES),
        *(slow(shape, "float32") for shape in SHAPES[1:]),
    ],
    ids=str,
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, shape, dtype):
    problem = Problem.sample(case, shape._replace(time=1)).rounded(dtype)
    with jax.enable_x64(dtype == "float64"):
        cell, state, x = one_step(problem, dtype)
        new = gru_jax.step(cell, state, x)
        output = cell.output(new)
    expected, ys = reference.unroll(case.step, problem.weights, problem.xs, problem.state)
    assert_close((tuple(jax.tree.leaves(new)), output), (expected, ys[0]), dtype)


@pytest.mark.parametrize("input_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_keeps_its_dtype(case, state_dtype, input_dtype):
    cell, state, x = one_step(Problem.sample(case, SMALL), "float32")
    state = jax.tree.map(lambda leaf: leaf.astype(state_dtype), state)
    new = gru_jax.step(cell, state, x.astype(input_dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(state_dtype)}


@pytest.mark.parametrize("learned_h0", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_initial_state(case, dtype, learned_h0):
    weights = case.sample_weights(SMALL, learned_h0=learned_h0)
    state = gru_jax.initial_state(case.cell(weights, dtype), (5, 2))
    leaves = tuple(jax.tree.leaves(state))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    initial = reference.initial_state(case.step, weights)
    expected = tuple(np.broadcast_to(leaf, (5, 2, SMALL.hidden)) for leaf in initial)
    assert_close(leaves, expected, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_initial_state_of_one_sequence(case):
    state = gru_jax.initial_state(case.cell(case.sample_weights(SMALL), "float32"))
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(SMALL.hidden,)] * case.states


@pytest.mark.parametrize("case", [GRU_AFTER, GRU_BEFORE], ids=str)
def test_a_closed_update_gate_keeps_the_state_exactly(case):
    """Otherwise a remembered value drifts by a rounding of the candidate at every step."""
    cell, state, x = one_step(Problem.sample(case, ProblemSize(1, (64,), 3, 32)), "float32")
    _, update, _ = np.split(np.arange(3 * 32), 3)
    closed = dataclasses.replace(cell, b=cell.b.at[update].set(100.0))
    np.testing.assert_array_equal(gru_jax.step(closed, state / 1000, x), state / 1000)


def test_lstm_state_has_names():
    cell, state, x = one_step(Problem.sample(LSTM, SMALL), "float32")
    new = gru_jax.step(cell, state, x)
    assert isinstance(new, gru_jax.LSTMState)
    assert cell.output(new) is new.h


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("state", lambda cell, state, x: (cell, state[:, :-1], x), ValueError),
        ("state", lambda cell, state, x: (cell, state[0], x), ValueError),
        ("state", lambda cell, state, x: (cell, state.astype(int), x), TypeError),
        ("state", lambda cell, state, x: (cell, (state, state), x), TypeError),
        ("x", lambda cell, state, x: (cell, state, x[:, :-1]), ValueError),
        ("x", lambda cell, state, x: (cell, state, x[0, 0]), ValueError),
        ("x", lambda cell, state, x: (cell, state, x.astype(int)), TypeError),
        ("x", lambda cell, state, x: (cell, state, "x"), TypeError),
        ("params", lambda cell, state, x: ({"w_x": cell.w_x}, state, x), TypeError),
    ],
)
def test_wrong_argument_is_named(name, change, error):
    arguments = one_step(Problem.sample(GRU_AFTER, SMALL), "float32")
    with pytest.raises(error, match=rf"\b{name}\b"):
        gru_jax.step(*change(*arguments))


def test_lstm_state_must_be_a_pair():
    cell, state, x = one_step(Problem.sample(LSTM, SMALL), "float32")
    with pytest.raises(TypeError, match=r"\bstate\b"):
        gru_jax.step(cell, state.h, x)
    with pytest.raises(ValueError, match=r"\bstate\b"):
        gru_jax.step(cell, state._replace(c=state.c[0]), x)
