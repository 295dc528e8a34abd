"""Replays of rollouts: which flags make them equal to the rollout, and the check that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax

STEPS, ENVS, FEATURES, HIDDEN = 24, 5, 3, 8
INITS = {"gru": gru_jax.init, "lstm": gru_jax.init_lstm, "rnn": gru_jax.init_rnn}


def make_cell(name, learned_h0=False):
    options = {"learned_h0": True} if learned_h0 else {}
    cell = INITS[name](jax.random.key(0), FEATURES, HIDDEN, **options)
    noise = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(cell))))
    return jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(noise), a.shape), cell)


def make_rollout(cell, carry, last_done, key):
    """What an actor stores, one step at a time: ``(carry, last_done), (xs, outputs, dones)``."""
    fresh = gru_jax.initial_state(cell, (ENVS,))

    def act(carry, key):
        state, done = carry
        x = jax.random.normal(key, (ENVS, FEATURES))
        state = jax.tree.map(lambda new, old: jnp.where(done[:, None], new, old), fresh, state)
        state = gru_jax.step(cell, state, x)
        done = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.2, (ENVS,))
        return (state, done), (x, cell.output(state), done)

    return jax.lax.scan(act, (carry, last_done), jax.random.split(key, STEPS))


@pytest.mark.parametrize("learned_h0", [False, True])
@pytest.mark.parametrize("name", INITS)
def test_the_replay_of_two_rollouts_in_a_row_computes_what_the_rollouts_did(name, learned_h0):
    cell = make_cell(name, learned_h0)
    # As if an earlier rollout had ended so.
    carry = jax.tree.map(lambda h: jnp.full_like(h, 0.5), gru_jax.initial_state(cell, (ENVS,)))
    last_done = jnp.arange(ENVS) % 2 == 0
    for key in jax.random.split(jax.random.key(2), 2):
        (new_carry, new_done), (xs, outputs, dones) = make_rollout(cell, carry, last_done, key)
        starts = gru_jax.starts_from_dones(dones, last_done)
        state, ys = gru_jax.unroll(cell, xs, carry, starts=starts)
        assert gru_jax.check_replay((outputs, new_carry), (ys, state), starts=starts) < 1e-6
        # The bug of many repositories: the flag after the step.
        _, shifted = gru_jax.unroll(cell, xs, carry, starts=dones)
        first = np.argwhere(np.asarray(dones != starts))[0]
        with pytest.raises(ValueError, match=f"step {first[0]}, environment {first[1]}"):
            gru_jax.check_replay(outputs, shifted, starts=dones)
        assert np.abs(outputs - shifted).max() > 0.1
        carry, last_done = new_carry, new_done


@pytest.mark.parametrize("learned_h0", [False, True])
@pytest.mark.parametrize("name", INITS)
def test_chunks_of_time_replay_from_stored_states(name, learned_h0):
    cell = make_cell(name, learned_h0)
    actor = gru_jax.initial_state(cell, (ENVS,)), jnp.zeros(ENVS, bool)
    stored, chunks = [], []
    for key in jax.random.split(jax.random.key(3), 3):
        before, (actor, chunk) = actor, make_rollout(cell, *actor, key)
        stored.append(before)
        chunks.append(chunk)
    (carries, last_dones), (xs, outputs, dones) = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts) for parts in (stored, chunks)
    )
    starts = jax.vmap(gru_jax.starts_from_dones)(dones, last_dones)

    @jax.vmap
    def replay(xs, state, starts):
        return gru_jax.unroll(cell, xs, state, starts=starts)[1]

    flat = (3 * STEPS, ENVS)
    wanted, flags = outputs.reshape(*flat, HIDDEN), starts.reshape(flat)
    ys = replay(xs, carries, starts).reshape(wanted.shape)
    assert gru_jax.check_replay(wanted, ys, starts=flags) < 1e-6
    shifted = replay(xs, carries, dones).reshape(wanted.shape)
    assert np.abs(wanted - shifted).max() > 0.1


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_starts_are_the_dones_of_the_step_before(dtype):
    dones = np.random.default_rng(0).integers(0, 2, (7, 3, 2)).astype(dtype)
    first = np.array([[1, 0], [0, 1], [1, 1]], dtype)
    expected = np.empty(dones.shape, bool)
    for t in range(7):
        expected[t] = (dones[t - 1] if t else first) != 0
    np.testing.assert_array_equal(gru_jax.starts_from_dones(dones, first), expected)
    two_parts = [
        gru_jax.starts_from_dones(dones[:4], first),
        gru_jax.starts_from_dones(dones[4:], dones[3]),
    ]
    np.testing.assert_array_equal(np.concatenate(two_parts), expected)
    assert gru_jax.starts_from_dones(dones[:0], first).shape == (0, 3, 2)
    np.testing.assert_array_equal(gru_jax.starts_from_dones(dones, True)[0], True)
    np.testing.assert_array_equal(jax.jit(gru_jax.starts_from_dones)(dones, first), expected)


@pytest.mark.parametrize(
    ("dones", "first", "error", "message"),
    [
        (np.zeros((4, 3)), np.zeros(4), ValueError, r"first has shape \(4,\), expected .*\(3,\)"),
        (np.array(1.0), False, ValueError, r"dones has shape \(\), expected \(time, \*batch\)"),
        ("abc", False, TypeError, "dones must be an array of booleans or real numbers"),
        (np.zeros((4, 3)), None, TypeError, "first must be an array of booleans or real numbers"),
    ],
)
def test_flags_that_do_not_fit_are_named(dones, first, error, message):
    with pytest.raises(error, match=message):
        gru_jax.starts_from_dones(dones, first)


def test_the_check_sees_imaginary_parts_and_equal_infinities():
    """Such as eigenvalues of a complex cell, and log-probabilities of actions that are masked."""
    values = np.array([[1 + 1j], [0 - 2j]], np.complex64)
    assert gru_jax.check_replay(values, values) == 0
    with pytest.raises(ValueError, match="differs from the rollout by 3 at step 1"):
        gru_jax.check_replay(values, values + np.array([[0], [6j]]))
    masked = np.array([[-np.inf, 0.5]])
    assert gru_jax.check_replay(masked, masked) == 0
    with pytest.raises(ValueError, match="by inf at step 0"):
        gru_jax.check_replay(np.array([[-1.0, 0.5]]), masked)
    with pytest.raises(ValueError, match="differs from the rollout"):
        gru_jax.check_replay(masked, -masked)


def test_the_check_says_where_a_replay_goes_wrong_and_why():
    right = {"log_prob": np.zeros((6, 2)), "value": np.ones((6, 2, 1), np.float32)}
    assert gru_jax.check_replay(right, jax.tree.map(jnp.asarray, right)) == 0
    starts = np.zeros((6, 2), bool)
    starts[3, 1] = True

    def with_error(t, b, value=0.5):
        wrong = {name: array.copy() for name, array in right.items()}
        wrong["log_prob"][t, b] = value
        return wrong

    for wrong, message in (
        (with_error(0, 1), "by 0.5 at step 0, environment 1.*the state at the beginning"),
        (
            with_error(3, 1),
            "step 3, environment 1.*resets the state there and the rollout does not",
        ),
        (with_error(4, 1), "step 4, environment 1.*The replay does not reset"),
        (with_error(4, 1, np.nan), "by nan at step 4, environment 1"),
    ):
        with pytest.raises(ValueError, match=message):
            gru_jax.check_replay(right, wrong, starts=starts)
    with pytest.raises(ValueError, match="starts_from_dones"):
        gru_jax.check_replay(right, with_error(4, 1))
    with pytest.raises(ValueError, match="trees of arrays of the same shapes"):
        gru_jax.check_replay(right, {"log_prob": np.zeros((6, 2))})
    with pytest.raises(ValueError, match=r"\(6, 2\).*\(5, 2\)"):
        gru_jax.check_replay(np.zeros((6, 2)), np.zeros((5, 2)))
