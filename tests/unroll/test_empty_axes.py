"""Any axis may have no elements: the call returns empty arrays, its gradient zeros."""

import chex
import jax
import jax.numpy as jnp
import pytest

import gru_jax
from tests.cells.cases import GRU_AFTER, LSTM
from tests.slow import slow

NO_STEPS, NO_SEQUENCES, NO_FEATURES = (0, 2, 3), (4, 0, 3), (4, 2, 0)


@pytest.mark.parametrize(
    "options", [{}, *map(slow, [{"checkpoint": 3}, {"implementation": "scan"}])]
)
@pytest.mark.parametrize("case", [GRU_AFTER, slow(LSTM)], ids=str)
@pytest.mark.parametrize("shape", [NO_STEPS, NO_SEQUENCES, NO_FEATURES])
def test_gradient(case, shape, options):
    cell = case.init(jax.random.key(0), 3, 2, bias_init="torch")
    cell = type(cell)(**{**vars(cell), "w_x": cell.w_x[: shape[-1]]})
    xs = jnp.ones(shape)

    @jax.jit
    @jax.value_and_grad
    def loss(cell):
        return (gru_jax.unroll(cell, xs, **options)[1] ** 2).sum()

    value, gradient = loss(cell)
    chex.assert_tree_all_finite(gradient)
    if 0 in shape[:-1]:
        assert not value
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    assert gru_jax.explain(cell, xs, **options).details


def test_the_last_state_of_no_steps_is_the_first():
    cell = gru_jax.init(jax.random.key(0), 3, 2)
    xs, h0 = jnp.ones(NO_STEPS), jnp.ones((2, 2))

    def last(h0, unroll, **options):
        return unroll(cell, xs, h0, **options)[0].sum()

    for unroll, options in ((gru_jax.unroll, {}), (gru_jax.unroll_truncated, {"window": 2})):
        assert (jax.grad(last)(h0, unroll, **options) == 1).all()


def test_windows_and_stacks_of_no_sequences():
    stack = gru_jax.init_stack(jax.random.key(0), 3, 2, num_layers=2, bidirectional=True)
    for shape in (NO_STEPS, NO_SEQUENCES):
        xs = jnp.ones(shape)
        assert gru_jax.unroll_stack(stack, xs)[1].shape == (*shape[:-1], 4)
        cell = stack.layers[0][0]
        assert gru_jax.unroll_truncated(cell, xs, window=3)[1].shape == (*shape[:-1], 2)
