"""Lengths, masks and starts at their edges, each said by one small example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.assert_trees import assert_close, assert_equal
from tests.cells.cases import CASES, GRU_AFTER, LSTM, RNN, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but

SHAPE = ProblemSize(time=4, batch=(2,), input=2, hidden=3)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
each_direction = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def flags(*rows: str) -> np.ndarray:
    """Flags (T, batch) from one row per sequence, in time order."""
    return np.array([[mark == "1" for mark in row] for row in rows]).T


def initial(cell):
    return tuple(jax.tree.leaves(gru_jax.initial_state(cell, SHAPE.batch)))


# The controls do not read the equations; one cell has one state, the other two.
@pytest.fixture(params=slow_but([GRU_AFTER, LSTM], CASES), ids=str)
def problem(request):
    return Problem.sample(request.param, SHAPE, learned_h0=True)


@each_direction
def test_length_zero_ends_in_h0(problem, reverse):
    outcome = problem.run("float32", lengths=np.array([0, 0]), reverse=reverse)
    assert_equal(outcome.state, tuple(jax.tree.leaves(problem.inputs("float32")[2])))
    assert not outcome.ys.any()
    for i, cotangent in enumerate(problem.cotangent_state):
        assert_equal(outcome.gradients[f"state.{i}"], cotangent.astype("float32"))
    assert not outcome.gradients["w_h"].any()


@each_direction
def test_length_zero_without_h0_ends_in_the_initial_state(problem, reverse):
    cell, xs, _ = problem.inputs("float32")
    last, _ = gru_jax.unroll(cell, xs, lengths=np.array([0, 0]), reverse=reverse)
    assert_equal(tuple(jax.tree.leaves(last)), initial(cell))


@each_direction
def test_nothing_valid_ends_in_h0(problem, reverse):
    outcome = problem.run("float32", mask=np.zeros((4, 2), bool), reverse=reverse)
    assert_equal(outcome.state, tuple(jax.tree.leaves(problem.inputs("float32")[2])))
    assert not outcome.ys.any()


def test_a_start_replaces_the_state_handed_in(problem):
    cell, xs, _ = problem.inputs("float32")
    outcome = problem.run("float32", starts=flags("1000", "1000"))
    fresh = gru_jax.unroll(cell, xs)
    assert_close(
        (outcome.state, outcome.ys), (tuple(jax.tree.leaves(fresh[0])), fresh[1]), "float32"
    )
    assert not outcome.gradients["state.0"].any()


def test_read_backward_the_first_start_changes_nothing(problem):
    with_start = problem.run("float32", starts=flags("1000", "1000"), reverse=True)
    without = problem.run("float32", starts=flags("0000", "0000"), reverse=True)
    assert_equal(with_start, without)


def test_a_start_at_a_masked_step_takes_effect(problem):
    outcome = problem.run("float32", starts=flags("0010", "0010"), mask=flags("1100", "1100"))
    assert_equal(outcome.state, initial(problem.inputs("float32")[0]))
    assert not outcome.gradients["xs"][2:].any()


def test_read_backward_a_start_at_a_masked_step_takes_effect(problem):
    """Step 1 is the first that is read of its segment, and nothing of it is valid."""
    outcome = problem.run(
        "float32", starts=flags("0010", "0010"), mask=flags("0011", "0011"), reverse=True
    )
    assert_equal(outcome.state, initial(problem.inputs("float32")[0]))


@each_direction
@pytest.mark.parametrize("beyond", ["0011", "0001"])
def test_a_start_beyond_the_length_does_nothing(problem, beyond, reverse):
    lengths = np.array([2, 2])
    starts = flags(beyond, beyond)
    with_start = problem.run("float32", lengths=lengths, starts=starts, reverse=reverse)
    without = problem.run("float32", lengths=lengths, starts=0 * starts > 0, reverse=reverse)
    assert_equal(with_start, without)


@every_case
def test_no_state_equals_zeros(case):
    """Also where the state's term has a bias of its own."""
    problem = Problem.sample(case, SHAPE)
    cell, xs, state = problem.inputs("float32")
    zeros = jax.tree.map(lambda leaf: 0 * leaf, state)
    assert_equal(gru_jax.unroll(cell, xs), gru_jax.unroll(cell, xs, zeros))


@each_direction
def test_traced_lengths_are_clipped(problem, reverse):
    wide = problem.run("float32", lengths=np.array([-3, 9]), reverse=reverse)
    assert_equal(wide, problem.run("float32", lengths=np.array([0, 4]), reverse=reverse))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
@pytest.mark.parametrize("problem", slow_but([RNN], CASES), ids=str, indirect=True)
def test_lengths_of_any_integer_dtype(problem, dtype):
    lengths = np.array([3, 1])
    expected = problem.run("float32", lengths=lengths)
    assert_equal(problem.run("float32", lengths=lengths.astype(dtype)), expected)


@pytest.mark.parametrize(("dtype", "time"), [("int8", 200), ("uint8", 300)])
@pytest.mark.parametrize("traced", [False, True])
def test_lengths_in_a_dtype_that_cannot_count_the_steps(dtype, time, traced):
    problem = Problem.sample(RNN, SHAPE._replace(time=time))
    unroll = jax.jit(gru_jax.unroll) if traced else gru_jax.unroll
    narrow, wide = (
        unroll(*problem.inputs("float32"), lengths=np.array([100, 3], lengths_dtype))
        for lengths_dtype in (dtype, "int32")
    )
    assert_equal(narrow, wide)


def test_controls_may_be_lists(problem):
    cell, xs, state = problem.inputs("float32")
    controls = {"lengths": [3, 1], "mask": flags("1011", "0111"), "starts": flags("0100", "0010")}
    lists = {name: np.asarray(value).tolist() for name, value in controls.items()}
    arrays = {name: np.asarray(value) for name, value in controls.items()}
    assert_equal(
        gru_jax.unroll(cell, xs, state, **lists), gru_jax.unroll(cell, xs, state, **arrays)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_numbers_are_true_unless_they_are_zero(dtype):
    """Brax and PureJaxRL hand over floats."""
    cell, xs, state = Problem.sample(RNN, SHAPE).inputs("float32")
    flags = np.random.default_rng(0).integers(0, 3, xs.shape[:2])
    for name in ("mask", "starts"):
        expected = gru_jax.unroll(cell, xs, state, **{name: flags != 0})
        assert_equal(gru_jax.unroll(cell, xs, state, **{name: flags.astype(dtype)}), expected)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint32"])
@jax.enable_x64(True)
def test_traced_lengths_beyond_int32_are_clipped(problem, dtype):
    unroll = jax.jit(lambda lengths: gru_jax.unroll(*problem.inputs("float32"), lengths=lengths))
    wide = np.array([np.iinfo(dtype).max, 2], dtype)
    assert_equal(unroll(wide), unroll(np.array([4, 2], dtype)))


@pytest.mark.parametrize("implementation", ["xla", slow("scan")])
def test_nan_at_masked_steps_under_debug_nans(problem, implementation):
    cell, xs, state = problem.inputs("float32")
    mask = np.arange(len(xs) * 2).reshape(len(xs), 2) % 3 > 0
    bad = jnp.where(mask[..., None], xs, jnp.nan)

    def loss(xs):
        options = {"mask": mask, "implementation": implementation}
        return (gru_jax.unroll(cell, xs, state, **options)[1] ** 2).sum()

    with jax.debug_nans(True):
        gradient = jax.grad(loss)(bad)
    assert_equal(gradient, jax.grad(loss)(xs))
