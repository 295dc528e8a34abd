"""Optimizers and schedules of Optax by name: what they compute, and what is rejected."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gru_jax import training
from gru_jax.training import optax_names
from tests.slow import slow_but
from tests.training.regression_problem import assert_same

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.array([0.1, -0.2])}


def trained(optimizer, steps=4):
    """Parameters and state after some steps along gradients that depend on the parameters."""

    @jax.jit
    def step(params, state):
        gradients = jax.tree.map(lambda leaf: jnp.sin(3 * leaf) + leaf, params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        params, state = PARAMS, optimizer.init(PARAMS)
        for _ in range(steps):
            params, state = step(params, state)
    return params, state


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("adam", {}, lambda rate: optax.adam(rate)),
        ("adam", {"b1": 0.8, "nesterov": True}, lambda rate: optax.adam(rate, 0.8, nesterov=True)),
        ("sgd", {}, lambda rate: optax.sgd(rate)),
        ("sgd", {"momentum": 0.9}, lambda rate: optax.sgd(rate, 0.9)),
        ("rmsprop", {}, lambda rate: optax.rmsprop(rate)),
        ("adamw", {}, lambda rate: optax.adamw(rate, weight_decay=0.1, mask=None)),
        ("lion", {"b1": 0.95}, lambda rate: optax.lion(rate, 0.95, weight_decay=0.1)),
        ("lars", {}, lambda rate: optax.lars(rate, 0.1, None)),
        ("novograd", {}, lambda rate: optax.novograd(rate, weight_decay=0.1)),
        (
            "lion",
            {"mu_dtype": "bfloat16"},
            lambda rate: optax.lion(rate, 0.9, 0.99, "bfloat16", 0.1),
        ),
    ],
)
def test_a_name_gives_optax_own_optimizer_bit_for_bit(name, options, plain):
    chain = [optax.clip_by_global_norm(1.0)]
    if not optax_names.has_parameter(name, "weight_decay"):
        chain.append(optax.add_decayed_weights(0.1))
    schedule = training.make_schedule(0.1, schedule="cosine", steps=4, warmup_steps=1)
    ours = training.make_optimizer(
        0.1,
        name=name,
        options=options,
        schedule="cosine",
        steps=4,
        warmup_steps=1,
        max_grad_norm=1.0,
        weight_decay=0.1,
        weight_decay_mask=None,
    )
    assert_same(trained(ours), trained(optax.chain(*chain, plain(schedule))))


@pytest.mark.parametrize(
    "name", slow_but(["lion", "rprop"], sorted({*optax_names.optimizer_names()} - {"lbfgs"}))
)
@pytest.mark.filterwarnings("ignore:.*optimistic_adam_v2:DeprecationWarning")
def test_every_optimizer_trains(name):
    # Later versions of Optax demand it.
    options = {"key": 0} if optax_names.has_parameter(name, "key") else {}
    params, _ = trained(training.make_optimizer(0.1, name=name, options=options))
    chex.assert_tree_all_finite(params)
    assert not np.array_equal(params["w"], PARAMS["w"])


def test_an_optimizer_that_needs_losses_is_rejected():
    with pytest.raises(ValueError, match=r"optax.lbfgs cannot be used here: .*'value'"):
        training.make_optimizer(0.1, name="lbfgs")


def test_weight_decay_replaces_the_default_of_an_optimizer():
    """With no gradient only weight decay moves the parameters, and the default is none."""
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)

    def moved(**options):
        optimizer = training.make_optimizer(0.1, name="lion", **options)
        return optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)[0]

    assert not any(np.any(leaf) for leaf in jax.tree.leaves(moved()))
    decayed = moved(weight_decay=0.5)
    np.testing.assert_allclose(decayed["w"], -0.05 * PARAMS["w"], rtol=1e-6)
    assert not np.any(decayed["b"])


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("cosine_decay_schedule", {}, lambda: optax.cosine_decay_schedule(0.5, 15, 0.1)),
        ("linear_schedule", {}, lambda: optax.linear_schedule(0.5, 0.05, 15)),
        (
            "polynomial_schedule",
            {"power": 2.0, "transition_steps": 9},
            lambda: optax.polynomial_schedule(0.5, 0.05, 2.0, 9),
        ),
        (
            "exponential_decay",
            {"decay_rate": 0.1, "staircase": True, "transition_steps": 3},
            lambda: optax.exponential_decay(0.5, 3, 0.1, staircase=True, end_value=0.05),
        ),
    ],
)
def test_schedules_begin_after_the_warmup(name, options, plain):
    rate = training.make_schedule(
        0.5, schedule=name, steps=20, warmup_steps=5, final_scale=0.1, options=options
    )
    expected = [*np.linspace(0, 0.5, 5, endpoint=False), *(plain()(step) for step in range(20))]
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose([rate(step) for step in range(25)], expected, rtol=1e-6)


def test_a_schedule_with_a_warmup_of_its_own_has_no_other():
    rate = training.make_schedule(
        0.5,
        schedule="warmup_cosine_decay_schedule",
        steps=20,
        warmup_steps=5,
        final_scale=0.1,
        options={"init_value": 0.2},
    )
    expected = optax.warmup_cosine_decay_schedule(0.2, 0.5, 5, 20, 0.05)
    assert [float(rate(step)) for step in range(22)] == [float(expected(s)) for s in range(22)]


def test_steps_of_a_schedule_count_updates():
    """Of twenty train steps two make an update, and the rate falls at the third update."""
    optimizer = training.make_optimizer(
        1.0,
        name="sgd",
        schedule="piecewise_constant_schedule",
        schedule_options={"boundaries_and_scales": {3: 0.5}},
        accumulate_steps=2,
    )
    state, moves = optimizer.init(PARAMS), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(10):
            updates, state = optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), state, PARAMS)
            moves.append(-float(updates["b"][0]))
    assert moves[1::2] == [1.0, 1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": "lionn"}, ValueError, ["name", "'lionn'", "did you mean lion?"]),
        ({"name": "clip_by_global_norm"}, ValueError, ["name", "adabelief"]),
        ({"name": "_deprecated_dpsgd"}, ValueError, ["name"]),
        ({"name": 3}, ValueError, ["name", "3"]),
        ({"name": "lion", "options": {"b3": 1.0}}, TypeError, ["'b3'", "b1, b2, mu_dtype"]),
        ({"options": {"epsilon": 1.0}}, TypeError, ["'epsilon'", "optax.adam", "mean eps?"]),
        ({"options": {"learning_rate": 1.0}}, ValueError, ["learning_rate", "set by"]),
        ({"name": "lion", "options": {"mask": True}}, ValueError, ["set by weight_decay_mask"]),
        ({"options": {"b1": "0.9"}}, TypeError, ["b1 must be a number", "'0.9'"]),
        ({"options": {"b1": True}}, TypeError, ["b1 must be a number"]),
        ({"options": {"nesterov": 1}}, TypeError, ["nesterov must be True or False"]),
        ({"name": "sgd", "options": {"momentum": "x"}}, ValueError, ["optax.sgd", "momentum"]),
        ({"name": "lion", "options": {"mu_dtype": "float9"}}, ValueError, ["lion", "float9"]),
        ({"name": "sm3", "schedule": "cosine", "steps": 9}, ValueError, ["optax.sm3"]),
        ({"name": "novograd", "weight_decay": 0.1}, ValueError, ["weight_decay_mask"]),
        ({"schedule": "sgdr_schedule"}, ValueError, ["schedule", "'sgdr_schedule'"]),
        ({"schedule": "polynomial"}, ValueError, ["did you mean polynomial_schedule?"]),
        ({"schedule": "linear_schedule"}, ValueError, ["linear_schedule", "steps"]),
        ({"schedule": "polynomial_schedule", "steps": 9}, ValueError, ["power", "lacks"]),
        ({"schedule_options": {"power": 1.0}}, TypeError, ["constant", "no options"]),
        (
            {"schedule": "piecewise_constant_schedule", "final_scale": 0.1},
            ValueError,
            ["final_scale", "piecewise_constant_schedule"],
        ),
        (
            {"schedule": "linear_schedule", "steps": 9, "schedule_options": {"init_value": 1.0}},
            ValueError,
            ["'init_value'", "learning_rate"],
        ),
        (
            {
                "schedule": "linear_schedule",
                "steps": 9,
                "final_scale": 0.5,
                "schedule_options": {"end_value": 1.0},
            },
            ValueError,
            ["final_scale", "end_value"],
        ),
        (
            {
                "schedule": "piecewise_constant_schedule",
                "schedule_options": {"boundaries_and_scales": 3},
            },
            ValueError,
            ["optax.piecewise_constant_schedule", "boundaries_and_scales"],
        ),
    ],
)
def test_what_would_have_no_effect_is_rejected(options, error, words):
    with pytest.raises(error) as caught:
        training.make_optimizer(**options)
    for word in words:
        assert word in str(caught.value)
