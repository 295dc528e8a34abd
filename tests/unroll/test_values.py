"""Values and gradients of unroll against the NumPy reference, at every shape."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests import reference
from tests.assert_trees import assert_close, assert_equal
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import SHAPES, ProblemSize
from tests.slow import slow, slow_but

SMALL = ProblemSize(time=5, batch=(3,), input=2, hidden=3)


two_cases = pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], CASES), ids=str)


def sample_controls(shape: ProblemSize) -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    steps = (shape.time, *shape.batch)
    return {
        "lengths": random.integers(0, shape.time + 1, shape.batch),
        "mask": random.uniform(size=steps) < 0.7,
        "starts": random.uniform(size=steps) < 0.3,
    }


def slow_if_repeated(case, shape, *rest):
    """Every shape for one cell, and for the others those that differ most."""
    is_slow = case is not GRU_AFTER and shape in SHAPES[1:6]
    return slow(case, shape, *rest) if is_slow else (case, shape, *rest)


@pytest.mark.parametrize(
    ("case", "shape"),
    [slow_if_repeated(case, shape) for case in CASES for shape in SHAPES],
    ids=str,
)
@jax.enable_x64(True)
def test_plain(case, shape):
    problem = Problem.sample(case, shape)
    assert_close(problem.run("float64"), problem.expected(), "float64")


@pytest.mark.parametrize(
    ("case", "shape", "reverse"),
    # Each shape in one direction, the first in both.
    [
        slow_if_repeated(case, shape, reverse)
        for case in CASES
        for shape, reverse in [(SHAPES[0], True), *zip(SHAPES, itertools.cycle([False, True]))]
    ],
    ids=lambda value: {False: "forward", True: "reverse"}.get(value) or str(value),
)
@jax.enable_x64(True)
def test_all_controls(case, shape, reverse):
    """With a learned initial state, whose gradient comes through the starts alone."""
    problem = Problem.sample(case, shape, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(shape)}
    assert_close(problem.run("float64", **controls), problem.expected(**controls), "float64")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("control", ["lengths", "mask", "starts"])
@jax.enable_x64(True)
def test_each_control_alone(control, reverse):
    problem = Problem.sample(GRU_AFTER, SMALL)
    controls = {"reverse": reverse, control: sample_controls(SMALL)[control]}
    assert_close(problem.run("float64", **controls), problem.expected(**controls), "float64")


@two_cases
def test_float32(case):
    problem = Problem.sample(case, SMALL, learned_h0=True).rounded("float32")
    controls = sample_controls(SMALL)
    assert_close(problem.run("float32", **controls), problem.expected(**controls), "float32")


@two_cases
@jax.enable_x64(True)
def test_without_biases(case):
    problem = Problem.sample(case, SMALL, bias=False)
    assert_close(problem.run("float64"), problem.expected(), "float64")


@pytest.mark.parametrize("learned_h0", [False, True], ids=["zeros", "learned"])
@two_cases
@jax.enable_x64(True)
def test_default_initial_state(case, learned_h0):
    """Zeros or the learned state, whose gradient is then the sum over all sequences."""
    problem = Problem.sample(case, SMALL, learned_h0=learned_h0)
    cell, xs, _ = problem.inputs("float64")

    def outputs(cell):
        last, ys = gru_jax.unroll(cell, xs)
        return ys.sum(), (tuple(jax.tree.leaves(last)), ys)

    (_, outcome), gradients = jax.jit(jax.value_and_grad(outputs, has_aux=True))(cell)
    assert_close(outcome, reference.unroll(case.step, problem.weights, problem.xs), "float64")

    expected = reference.gradient(
        lambda weights: reference.unroll(case.step, weights, problem.xs)[1].sum(),
        problem.weights,
    )
    assert_close({name: getattr(gradients, name) for name in expected}, expected, "float64")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_steps(case):
    problem = Problem.sample(case, ProblemSize(time=0, batch=(2,), input=3, hidden=4))
    outcome = problem.run("float32", reverse=False)
    assert outcome.ys.shape == (0, 2, 4)
    assert_equal(outcome.state, tuple(jax.tree.leaves(problem.inputs("float32")[2])))


@two_cases
@jax.enable_x64(True)
def test_unroll_is_a_scan_of_step(case):
    cell, xs, state = Problem.sample(case, SMALL).inputs("float64")

    def body(state, x):
        state = gru_jax.step(cell, state, x)
        return state, cell.output(state)

    assert_close(gru_jax.unroll(cell, xs, state), jax.lax.scan(body, state, xs), "float64")


@jax.enable_x64(True)
def test_tolerance_tells_the_equations_apart():
    problem = Problem.sample(GRU_BEFORE, SMALL)
    other = Problem(**{**vars(problem), "case": GRU_AFTER})
    difference = jnp.abs(problem.run("float64").ys - other.run("float64").ys)
    assert difference.max() > 0.01
