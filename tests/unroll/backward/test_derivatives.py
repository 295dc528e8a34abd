"""Derivatives of every kind and order, and the transformations that unroll must live under."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import gru_jax
from tests import reference
from tests.assert_trees import assert_close
from tests.cells.cases import GATED_CASES, GRU_AFTER, GRU_BEFORE, LSTM, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but

TINY = ProblemSize(time=3, batch=(2,), input=2, hidden=2)
CONTROLS = {
    "lengths": np.array([3, 2]),
    "mask": np.array([[True, True], [False, True], [True, True]]),
    "starts": np.array([[False, False], [False, True], [True, False]]),
}

two_gated_cases = pytest.mark.parametrize("case", slow_but([GRU_AFTER, LSTM], GATED_CASES), ids=str)


@pytest.mark.parametrize(
    ("case", "reverse"),
    [
        (GRU_AFTER, False),
        slow(GRU_BEFORE, False),
        slow(LSTM, True),
        slow(LSTM, False),
        slow(GRU_AFTER, True),
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_first_and_second_derivatives_in_both_modes(case, reverse):
    problem = Problem.sample(case, TINY, learned_h0=True)

    @jax.jit
    def unroll(cell, xs, state):
        return gru_jax.unroll(cell, xs, state, reverse=reverse, **CONTROLS)

    check_grads(unroll, problem.inputs("float64"), order=2, modes=("fwd", "rev"))


@two_gated_cases
@jax.enable_x64(True)
def test_jvp(case):
    """The derivative of every output along one direction, by the complex step."""
    problem = Problem.sample(case, TINY, learned_h0=True)
    tangent = Problem.sample(case, TINY, seed=1, learned_h0=True)

    @jax.jit
    def derivative(inputs, directions):
        return jax.jvp(lambda *it: gru_jax.unroll(*it, **CONTROLS), inputs, directions)[1]

    last, ys = derivative(problem.inputs("float64"), tangent.inputs("float64"))

    height = 1e-30
    values, directions = ((it.weights, it.xs, it.state) for it in (problem, tangent))
    weights, xs, state = jax.tree.map(lambda a, b: a + 1j * height * b, values, directions)
    expected = reference.unroll(case.step, weights, xs, state, **CONTROLS)
    expected = jax.tree.map(lambda leaf: leaf.imag / height, expected)
    assert_close((tuple(jax.tree.leaves(last)), ys), expected, "float64")


@two_gated_cases
@jax.enable_x64(True)
def test_forward_and_reverse_jacobians_agree(case):
    cell, xs, state = Problem.sample(case, TINY).inputs("float64")

    def outputs(cell):
        return gru_jax.unroll(cell, xs, state)[1]

    forward, backward = jax.jit(jax.jacfwd(outputs))(cell), jax.jit(jax.jacrev(outputs))(cell)
    assert_close(forward, backward, "float64")
    assert forward.w_h.shape == (*TINY[:1], *TINY.batch, TINY.hidden, *cell.w_h.shape)


@two_gated_cases
@jax.enable_x64(True)
def test_hessian(case):
    """Symmetric, and the same however the modes are nested."""
    problem = Problem.sample(case, TINY)
    cell, xs, state = problem.inputs("float64")
    flat, unflatten = jax.flatten_util.ravel_pytree(cell)

    def loss(flat):
        return (gru_jax.unroll(unflatten(flat), xs, state)[1] * problem.cotangent_ys).sum()

    hessian = jax.jit(jax.hessian(loss))(flat)
    assert jnp.abs(hessian).max() > 0.1
    assert_close(hessian, hessian.T, "float64")
    assert_close(hessian, jax.jit(jax.jacrev(jax.jacfwd(loss)))(flat), "float64")


@two_gated_cases
@jax.enable_x64(True)
def test_vmap_over_sequences(case):
    problem = Problem.sample(case, TINY)
    cell, xs, state = problem.inputs("float64")

    def one(xs, state, lengths, mask, starts):
        return gru_jax.unroll(cell, xs, state, lengths=lengths, mask=mask, starts=starts)

    mapped = jax.jit(jax.vmap(one, in_axes=(1, 0, 0, 1, 1), out_axes=(0, 1)))(
        xs, state, *(jnp.asarray(CONTROLS[name]) for name in ("lengths", "mask", "starts"))
    )
    assert_close(mapped, gru_jax.unroll(cell, xs, state, **CONTROLS), "float64")


@two_gated_cases
@jax.enable_x64(True)
def test_vmap_over_parameters(case):
    problems = [Problem.sample(case, TINY, seed) for seed in range(3)]
    cells = [problem.inputs("float64")[0] for problem in problems]
    _, xs, state = problems[0].inputs("float64")
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cells)
    _, mapped = jax.jit(jax.vmap(lambda cell: gru_jax.unroll(cell, xs, state)))(ensemble)
    assert_close(
        mapped, jnp.stack([gru_jax.unroll(cell, xs, state)[1] for cell in cells]), "float64"
    )


@two_gated_cases
@jax.enable_x64(True)
def test_gradients_of_each_sequence_add_up(case):
    problem = Problem.sample(case, TINY)
    cell, xs, state = problem.inputs("float64")

    def loss(cell, xs, state):
        return jnp.square(gru_jax.unroll(cell, xs, state)[1]).sum()

    each = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 1, 0)))(cell, xs, state)
    added = jax.tree.map(lambda leaf: leaf.sum(0), each)
    assert_close(added, jax.jit(jax.grad(loss))(cell, xs, state), "float64")


@two_gated_cases
@jax.enable_x64(True)
def test_inside_scan_and_remat(case):
    """As in a training loop that carries the state from batch to batch."""
    cell, xs, state = Problem.sample(case, TINY._replace(time=6)).inputs("float64")

    @jax.checkpoint
    def body(state, xs):
        return gru_jax.unroll(cell, xs, state)

    last, ys = jax.lax.scan(body, state, xs.reshape(2, 3, *xs.shape[1:]))
    assert_close((last, ys.reshape(6, *ys.shape[2:])), gru_jax.unroll(cell, xs, state), "float64")


PRECISION_CASES = {
    "grad": lambda loss: jax.grad(loss),
    "grad of jit": lambda loss: jax.grad(jax.jit(loss)),
    "grad of checkpoint": lambda loss: jax.grad(jax.checkpoint(loss)),
    "transpose of linearize": lambda loss: (
        lambda cell: jax.linear_transpose(jax.linearize(loss, cell)[1], cell)(1.0)
    ),
    "grad of grad": lambda loss: jax.grad(lambda cell: jax.grad(loss)(cell).w_h.sum()),
}


@pytest.mark.parametrize("checkpoint", [None, "step", "chunk"])
def test_the_precision_of_a_loss_is_that_of_its_gradient(checkpoint):
    """JAX transposes a matmul in the precision that it has, wherever the gradient is taken."""
    cell, xs, _ = Problem.sample(GRU_AFTER, TINY).inputs("float32")

    def loss(cell):
        with jax.default_matmul_precision("highest"):
            return gru_jax.unroll(cell, xs, checkpoint=checkpoint)[1].sum()

    for name, transform in PRECISION_CASES.items():
        program = jax.jit(transform(loss)).lower(cell).as_text()
        matmuls = [line for line in program.splitlines() if "dot_general" in line]
        assert matmuls, name
        assert all("HIGHEST" in line for line in matmuls), name
