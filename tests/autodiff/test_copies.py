"""Functions whose copies run one after another where their weights are mapped."""

import jax
import jax.numpy as jnp
import pytest

from gru_jax._autodiff.copies import run_copies_in_turn
from tests.assert_trees import assert_close

COPIES, BATCH, FEATURES, UNITS = 3, 4, 2, 5
WEIGHTS = jax.random.normal(jax.random.key(0), (COPIES, FEATURES, UNITS))
INPUTS = jax.random.normal(jax.random.key(1), (COPIES, BATCH, FEATURES))


def function(weights, inputs):
    hidden = jnp.tanh(inputs @ weights)
    return {"hidden": hidden, "inputs": inputs, "sum": hidden.sum()}


def in_turn(least, function=function):
    return run_copies_in_turn(function, 1, lambda batch: least)


def has_loop(function, *arguments):
    return "while" in jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize("least", [2, 4, None])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_it_is_the_function(least, axes):
    arguments = [
        value if axis == 0 else value[0]
        for value, axis in zip((WEIGHTS, INPUTS), axes, strict=True)
    ]
    mapped = jax.vmap(in_turn(least), axes)
    assert_close(mapped(*arguments), jax.vmap(function, axes)(*arguments), "float32")
    assert has_loop(mapped, *arguments) == (least == 2 and axes[0] == 0)


def test_without_a_map_it_is_the_function_itself():
    assert_close(in_turn(2)(WEIGHTS[0], INPUTS[0]), function(WEIGHTS[0], INPUTS[0]), "float32")
    assert not has_loop(in_turn(2), WEIGHTS[0], INPUTS[0])


def test_maps_in_each_other():
    """Sequences that are mapped first count as a larger batch."""
    seen = []

    def least(batch):
        seen.append(batch)
        return 2 if batch >= BATCH else None

    wrapped = run_copies_in_turn(lambda w, x: jnp.tanh(x @ w).sum(), 1, least)
    mapped = jax.vmap(jax.vmap(wrapped, (None, 0)))
    expected = jnp.tanh(INPUTS @ WEIGHTS).sum(-1)
    assert_close(mapped(WEIGHTS, INPUTS), expected, "float32")
    assert seen[:2] == [1, BATCH]
    assert has_loop(mapped, WEIGHTS, INPUTS)


@pytest.mark.parametrize("least", [2, None])
def test_derivatives(least):
    def loss(function, weights, inputs):
        return jnp.sin(function(weights, inputs)["hidden"]).sum()

    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        ours, plain = (
            jax.vmap(derivative(lambda w, x, f=f: loss(f, w, x)))(WEIGHTS, INPUTS)
            for f in (in_turn(least), function)
        )
        assert_close(ours, plain, "float32")


def test_what_is_not_read_is_not_computed():
    def unused(weights, inputs):
        jnp.linalg.inv(weights @ weights.T)
        return inputs @ weights

    jaxpr = jax.make_jaxpr(in_turn(2, unused))(WEIGHTS[0], INPUTS[0])
    assert "lu" not in str(jaxpr)


def test_arguments_that_are_results_are_not_copied():
    mapped = jax.vmap(in_turn(2))
    jaxpr = jax.make_jaxpr(mapped)(WEIGHTS, INPUTS)
    loop = next(equation for equation in jaxpr.eqns if equation.primitive.name == "scan")
    assert [variable.aval.shape for variable in loop.outvars] == [
        (COPIES, BATCH, UNITS),
        (COPIES,),
    ]
