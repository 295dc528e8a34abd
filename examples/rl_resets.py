"""Episodes inside a rollout: which flag resets the state, and what a flag one step early does.

A recurrent policy acts on the state after the *previous* step's `done`. The replay of the rollout,
in the loss, must reset at the same steps: `starts[t + 1]` is `done[t]`. Then the replayed action
probabilities equal those of the rollout, and PPO's ratio is 1 before the first update.
"""

import jax
import jax.numpy as jnp

import gru_jax

STEPS, ENVS, FEATURES, HIDDEN, ACTIONS = 64, 16, 8, 32, 4


def policy(params, h):
    return jax.nn.log_softmax(h @ params["actor"])


def rollout(params, key):
    """One environment step at a time; episodes end at random."""

    def act(carry, key):
        h, done = carry
        key_x, key_action, key_done = jax.random.split(key, 3)
        x = jax.random.normal(key_x, (ENVS, FEATURES))
        h = jnp.where(done[:, None], gru_jax.initial_state(params["gru"], (ENVS,)), h)
        h = gru_jax.step(params["gru"], h, x)
        log_probs = policy(params, h)
        action = jax.random.categorical(key_action, log_probs)
        taken = jnp.take_along_axis(log_probs, action[:, None], axis=1)[:, 0]
        next_done = jax.random.bernoulli(key_done, 0.1, (ENVS,))
        return (h, next_done), (x, action, taken, next_done)

    h0 = gru_jax.initial_state(params["gru"], (ENVS,))
    no_episode_ended = jnp.zeros(ENVS, bool)
    _, stored = jax.lax.scan(act, (h0, no_episode_ended), jax.random.split(key, STEPS))
    return h0, no_episode_ended, *stored


def replay_ratio(params, h0, xs, starts, actions, old_log_probs):
    """PPO's ratio of new to old action probabilities, all steps at once."""
    _, ys = gru_jax.unroll(params["gru"], xs, h0, starts=starts)
    log_probs = jnp.take_along_axis(policy(params, ys), actions[..., None], axis=-1)[..., 0]
    return jnp.exp(log_probs - old_log_probs)


def main():
    params = {
        "gru": gru_jax.init(jax.random.key(0), FEATURES, HIDDEN),
        "actor": jax.random.normal(jax.random.key(1), (HIDDEN, ACTIONS)),
    }
    h0, last_done, xs, actions, old_log_probs, done = rollout(params, jax.random.key(2))

    starts = gru_jax.starts_from_dones(done, last_done)  # starts[t + 1] = done[t]
    errors = {}
    for name, flags in (("starts[t + 1] = done[t]", starts), ("starts[t] = done[t]", done)):
        ratio = replay_ratio(params, h0, xs, flags, actions, old_log_probs)
        errors[name] = float(jnp.abs(ratio - 1).max())
        print(f"{name}: largest |ratio - 1| before any update {errors[name]:.1e}")
    return errors


if __name__ == "__main__":
    main()
