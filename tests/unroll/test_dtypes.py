"""Which dtype comes out, and how exact low precision is."""

from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from tests.assert_trees import assert_close
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but

SHAPE = ProblemSize(time=6, batch=(3,), input=4, hidden=5)
KEY = jax.random.key(0)

every_case = pytest.mark.parametrize("case", CASES, ids=str)
two_cases = pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], CASES), ids=str)


def dtypes(tree) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@two_cases
@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("input_dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("parameter_dtype", ["bfloat16", "float32"])
def test_outputs_follow_inputs_and_the_carry_follows_h0(
    case, parameter_dtype, input_dtype, state_dtype
):
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    cell, xs, _ = problem.inputs(parameter_dtype)
    state = None if state_dtype is None else problem.inputs(state_dtype)[2]
    starts = np.ones(xs.shape[:2], bool)
    last, ys = jax.eval_shape(gru_jax.unroll, cell, xs.astype(input_dtype), state, starts=starts)
    assert dtypes(ys) == {input_dtype}
    assert dtypes(last) == {state_dtype or "float32"}


@every_case
@jax.enable_x64(True)
def test_float64_inputs_make_a_float64_carry(case):
    cell, xs, _ = Problem.sample(case, SHAPE).inputs("float64")
    for parameters in (cell, jax.tree.map(lambda leaf: leaf.astype("float32"), cell)):
        last, ys = jax.eval_shape(gru_jax.unroll, parameters, xs)
        assert dtypes((last, ys)) == {"float64"}


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (GRU_AFTER, "bfloat16"),
        (LSTM, "float16"),
        *(slow(case, "bfloat16") for case in CASES if case is not GRU_AFTER),
        *(slow(case, "float16") for case in CASES if case is not LSTM),
    ],
    ids=str,
)
def test_low_precision_from_end_to_end(case, dtype):
    cell = case.init(KEY, 4, 5, dtype=dtype, learned_h0=True, **case.static)
    xs = jax.random.normal(KEY, (6, 3, 4), dtype)

    def loss(cell, xs):
        return jnp.square(gru_jax.unroll(cell, xs)[1]).sum()

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(cell, xs)
    assert dtypes((value, gradients)) == {dtype}
    assert all(jnp.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradients))


@two_cases
@jax.enable_x64(True)
def test_float64_from_end_to_end(case):
    cell = case.init(KEY, 4, 5, dtype=jnp.float64, **case.static)
    xs = jax.random.normal(KEY, (6, 3, 4), jnp.float64)
    outcome = jax.jit(gru_jax.unroll)(cell, xs)
    gradient = jax.jit(jax.grad(lambda cell: gru_jax.unroll(cell, xs)[1].sum()))(cell)
    assert dtypes((outcome, gradient)) == {"float64"}


@every_case
@pytest.mark.parametrize("reverse", [False, slow(True)], ids=["forward", "reverse"])
def test_bfloat16_against_the_reference(case, reverse):
    """The reference is given the same rounded numbers, and computes in float64."""
    problem = Problem.sample(case, SHAPE, learned_h0=True).rounded("bfloat16")
    controls = {"reverse": reverse, "lengths": np.array([6, 3, 0])}
    assert_close(problem.run("bfloat16", **controls), problem.expected(**controls), "bfloat16")


@two_cases
def test_gradients_over_a_long_time_accumulate_in_float32(case):
    """2000 terms of one sign: a sum in bfloat16 stops growing after a few hundred."""
    shape = ProblemSize(time=2000, batch=(2,), input=3, hidden=4)
    sampled = Problem.sample(case, shape).rounded("bfloat16")
    weights = {name: 0.5 * value for name, value in sampled.weights.items()}
    ones = {"cotangent_ys": np.ones_like(sampled.cotangent_ys), "xs": np.abs(sampled.xs)}
    problem = Problem(**{**vars(sampled), "weights": weights, **ones})

    low = problem.run("bfloat16").gradients
    with jax.enable_x64(True):
        exact = jax.device_get(problem.run("float64").gradients)
    for name in weights:
        assert exact[name].max() > 256 or exact[name].min() < -256
    assert_close(low, exact, "bfloat16")


@pytest.mark.parametrize(
    ("params_dtype", "inputs_dtype", "state_dtype"),
    [
        ("float32", "float64", "float32"),
        ("float64", "float32", "float64"),
        ("bfloat16", "float64", None),
        *(
            slow(*dtypes)
            for dtypes in product(
                ("bfloat16", "float32", "float64"),
                ("float16", "float32", "float64"),
                (None, "bfloat16", "float32", "float64"),
            )
        ),
    ],
)
@pytest.mark.parametrize("case", [GRU_AFTER, *map(slow, (GRU_BEFORE, LSTM))], ids=str)
@jax.enable_x64(True)
def test_gradients_have_the_dtypes_of_their_arguments(
    case, params_dtype, inputs_dtype, state_dtype
):
    """The inputs are of NumPy."""
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    cell = problem.case.cell(problem.weights, params_dtype)
    state = None if state_dtype is None else problem.case.state(problem.state, state_dtype)
    xs = problem.xs.astype(inputs_dtype)

    @jax.jit
    def gradient(*arguments):
        return jax.grad(
            lambda *arguments: gru_jax.unroll(*arguments)[1].astype("float32").sum(), (0, 1, 2)
        )(*arguments)

    arguments = (cell, xs, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient(*arguments), arguments)
