"""Properties of the optimizers and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gru_jax
from gru_jax import training

RATE = 0.25


def update(optimizer, gradients, params):
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return updates


@given(st.floats(0.01, 100.0), st.floats(0.01, 10.0))
@settings(max_examples=30, deadline=None)
def test_clipped_gradients_have_the_smaller_norm_and_the_same_direction(scale, max_grad_norm):
    gradients = {"a": scale * jnp.array([3.0, -1.0]), "b": scale * jnp.array([[2.0]])}
    optimizer = training.make_optimizer(RATE, name="sgd", max_grad_norm=max_grad_norm)
    updates = update(optimizer, gradients, jax.tree.map(jnp.zeros_like, gradients))

    norm = float(optax.tree.norm(gradients))
    factor = -RATE * min(1.0, max_grad_norm / norm)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(updates[name], factor * np.asarray(gradient), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "linear"])
@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_schedule_rises_to_the_peak_and_falls_to_the_end(schedule, warmup_steps):
    steps, final_scale = 50, 0.1
    rate = training.make_schedule(
        RATE,
        schedule=schedule,
        steps=steps,
        warmup_steps=warmup_steps,
        final_scale=0.0 if schedule == "constant" else final_scale,
    )
    rates = np.array([rate(step) for step in range(steps + 10)])

    assert rates[warmup_steps] == pytest.approx(RATE)
    if warmup_steps:
        np.testing.assert_allclose(
            rates[: warmup_steps + 1], RATE * np.arange(warmup_steps + 1) / warmup_steps, rtol=1e-6
        )
    after = rates[warmup_steps:]
    if schedule == "constant":
        np.testing.assert_allclose(after, RATE)
    else:
        assert np.all(np.diff(after[: steps - warmup_steps + 1]) < 0)
        np.testing.assert_allclose(rates[steps:], final_scale * RATE, rtol=1e-5)


def test_shapes_of_the_schedules_half_way():
    def half_way(schedule):
        return float(
            training.make_schedule(1.0, schedule=schedule, steps=100, final_scale=0.04)(50)
        )

    assert half_way("linear") == pytest.approx(0.52)
    assert half_way("cosine") == pytest.approx(0.52)
    assert half_way("exponential") == pytest.approx(0.2)


def test_accumulated_schedule_counts_train_steps():
    """Two train steps an update: the rate of the last update is that near the run's end."""
    gradients = params = {"a": jnp.ones(())}
    optimizer = training.make_optimizer(
        1.0, name="sgd", schedule="linear", steps=20, warmup_steps=4, accumulate_steps=2
    )
    state = optimizer.init(params)
    moves = []
    jitted_update = jax.jit(optimizer.update)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(22):
            updates, state = jitted_update(gradients, state, params)
            moves.append(-float(updates["a"]))
    assert moves[0::2] == [0.0] * 11
    expected = training.make_schedule(1.0, schedule="linear", steps=10, warmup_steps=2)
    np.testing.assert_allclose(moves[1::2], [expected(count) for count in range(11)], atol=1e-6)
    assert moves[-1] == 0.0


def test_weight_decay_is_decoupled_in_adamw_alone():
    """Adam's update does not depend on the gradient's scale: only decoupled decay shows through."""
    params = {"a": jnp.array([[2.0]])}
    gradients = {"a": jnp.array([[1000.0]])}

    def displacement(name, weight_decay):
        optimizer = training.make_optimizer(RATE, name=name, weight_decay=weight_decay)
        return float(update(optimizer, gradients, params)["a"][0, 0])

    decay = 0.5
    assert displacement("adamw", decay) - displacement("adamw", 0.0) == pytest.approx(
        -RATE * decay * 2.0
    )
    assert displacement("adam", decay) == pytest.approx(displacement("adam", 0.0), rel=1e-4)
    assert displacement("sgd", decay) - displacement("sgd", 0.0) == pytest.approx(
        -RATE * decay * 2.0, rel=1e-3
    )


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("mask", "decayed"),
    [
        ({}, {"w_x", "w_h"}),
        ({"weight_decay_mask": None}, {"w_x", "w_h", "b", "b_hn", "h0"}),
        ({"weight_decay_mask": lambda params: jax.tree.map(lambda _: False, params)}, set()),
    ],
    ids=["default", "None", "function"],
)
def test_weight_decay_spares_what_is_no_matrix(name, mask, decayed):
    params = gru_jax.init(jax.random.key(0), 3, 4, learned_h0=True)
    params = jax.tree.map(jnp.ones_like, params)
    optimizer = training.make_optimizer(RATE, name=name, weight_decay=0.1, **mask)
    updates = update(optimizer, jax.tree.map(jnp.zeros_like, params), params)
    assert {name for name, leaf in vars(updates).items() if np.any(leaf)} - {"reset"} == decayed


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_first_step_goes_against_the_gradient(name):
    params = {"a": jnp.zeros((3,))}
    gradients = {"a": jnp.array([1.0, -2.0, 0.5])}
    updates = update(training.make_optimizer(RATE, name=name), gradients, params)
    assert np.all(np.sign(updates["a"]) == -np.sign(gradients["a"]))


def test_a_warmup_is_no_shorter_than_asked_for():
    """Of 3 train steps, which are less than an update of 4: its rate is that of the warmup's."""
    optimizer = training.make_optimizer(1.0, name="sgd", warmup_steps=3, accumulate_steps=4)
    params = jnp.ones(())
    state, moves = optimizer.init(params), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(8):
            updates, state = optimizer.update(jnp.ones(()), state, params)
            moves.append(-float(updates))
    assert moves == [0.0] * 7 + [1.0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": "adamz"}, ValueError, ["name", "adamz", "adamw"]),
        ({"schedule": "cosin"}, ValueError, ["schedule", "cosin", "cosine"]),
        ({"schedule": "cosine"}, ValueError, ["cosine", "steps"]),
        ({"schedule": "linear", "steps": 5, "warmup_steps": 5}, ValueError, ["warmup_steps"]),
        ({"schedule": "exponential", "steps": 5}, ValueError, ["final_scale"]),
        ({"learning_rate": -1.0}, ValueError, ["learning_rate", "-1.0"]),
        ({"learning_rate": float("nan")}, ValueError, ["learning_rate", "nan"]),
        ({"learning_rate": "1e-3"}, TypeError, ["learning_rate", "'1e-3'"]),
        ({"max_grad_norm": 0.0}, ValueError, ["max_grad_norm"]),
        ({"weight_decay": -0.1}, ValueError, ["weight_decay"]),
        ({"final_scale": 0.5}, ValueError, ["final_scale", "no effect", "constant", "0.5"]),
        ({"final_scale": 1.5}, ValueError, ["final_scale", "1.5"]),
        ({"accumulate_steps": 0}, ValueError, ["accumulate_steps", "0"]),
        ({"accumulate_steps": 1.5}, TypeError, ["accumulate_steps", "1.5"]),
        ({"warmup_steps": -3}, ValueError, ["warmup_steps", "-3"]),
        ({"warmup_steps": "3"}, TypeError, ["warmup_steps", "'3'"]),
        ({"steps": -1}, ValueError, ["steps", "-1"]),
    ],
)
def test_wrong_arguments_are_named(options, error, words):
    with pytest.raises(error) as caught:
        training.make_optimizer(**options)
    assert all(word in str(caught.value) for word in words)
