"""A GRU by fused kernels, tested with the reference kernels in plain JAX."""

import logging

import jax
import jax.numpy as jnp
import pytest

from gru_jax._unroll import log
from gru_jax._unroll.backward import backward_pass
from gru_jax._unroll.fused.reference_kernels import REFERENCE_KERNELS
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, Problem
from tests.shapes import SHAPES, ProblemSize
from tests.slow import slow
from tests.unroll.fused.kernel_harness import unroll_by, with_float32_carry
from tests.unroll.test_implementations import SHAPE, sample_controls, transformed
from tests.unroll.tuning_overrides import unroll_with


@pytest.fixture(scope="module")
def unroll():
    with unroll_by(REFERENCE_KERNELS) as unroll:
        yield unroll


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@jax.enable_x64(True)
def test_every_shape(unroll, shape):
    problem = Problem.sample(GRU_AFTER, shape)
    assert_close(problem.run("float64", unroll), problem.expected(), "float64")


@pytest.mark.parametrize("checkpoint", [None, "step", "chunk"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@jax.enable_x64(True)
def test_all_controls(unroll, reverse, checkpoint):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    outcome = problem.run("float64", unroll, checkpoint=checkpoint, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@jax.enable_x64(True)
def test_the_backward_pass_in_chunks(unroll, reverse, monkeypatch):
    monkeypatch.setattr(backward_pass, "MAX_CHUNK_ELEMENTS", 3 * 2 * SHAPE.hidden)
    jax.clear_caches()
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    outcome = problem.run("float64", unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")
    jax.clear_caches()


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_bfloat16(unroll, reverse):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True).rounded("bfloat16")
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    outcome = with_float32_carry(problem, unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "bfloat16")


@pytest.mark.parametrize(
    "names",
    [
        ("jvp", "jvp of grad", "vmap", "vmap of grad", "linearize"),
        slow(("jacfwd", "hessian", "jacrev of grad", "checkpoint")),
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_transformations(unroll, names):
    with unroll_with("scan") as plain:
        expected = transformed(plain, GRU_AFTER, names)
    assert_close(transformed(unroll, GRU_AFTER, names), expected, "float64")


@jax.enable_x64(True)
def test_a_mapped_axis_joins_the_batch(unroll):
    problem = Problem.sample(GRU_AFTER, ProblemSize(4, (3, 2), 2, 3))
    cell, xs, state = problem.inputs("float64")

    def loss(cell, xs, state):
        last, ys = unroll(cell, xs, state)
        return (ys**3).sum((0, -1, -2)) + (last**2).sum((-1, -2))

    def mapped(cell, xs, state):
        return jax.vmap(loss, (None, 1, 0))(cell, xs, state).sum()

    def whole(cell, xs, state):
        return loss(cell, xs, state).sum()

    got = jax.jit(jax.value_and_grad(mapped, (0, 1, 2)))(cell, xs, state)
    want = jax.jit(jax.value_and_grad(whole, (0, 1, 2)))(cell, xs, state)
    assert_close(got, want, "float64")


@pytest.mark.parametrize("weights", [None, 0])
def test_vmap_over_nothing(unroll, weights):
    cell, xs, state = Problem.sample(GRU_AFTER, SHAPE).inputs("float32")
    nothing = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape)), (cell, xs, state))
    arguments = (cell if weights is None else nothing[0], *nothing[1:])

    def loss(cell, xs, state):
        return unroll(cell, xs, state)[1].sum()

    values, gradients = jax.vmap(jax.value_and_grad(loss, (1, 2)), (weights, 0, 0))(*arguments)
    assert values.shape == (0,)
    assert [leaf.shape for leaf in gradients] == [(0, *xs.shape), (0, *state.shape)]


def test_mapped_weights_are_told_once(unroll, caplog, monkeypatch):
    """The kernels have one set of weights: the reference runs, and the log says so."""
    monkeypatch.setattr(log, "_logged", set())
    cell, xs, state = Problem.sample(GRU_AFTER, SHAPE).inputs("float32")
    cells = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), cell)
    with caplog.at_level(logging.INFO, logger="gru_jax"):
        jax.eval_shape(jax.vmap(unroll, (0, None, None)), cells, xs, state)
    (message,) = {record.getMessage() for record in caplog.records}
    assert "vmap over parameters" in message
