"""Recurrent PPO (Schulman et al. 2017) on a task that needs memory: bsuite's memory chain.

The first observation shows a bit, the last step asks for it, 10 steps later. The agent that resets
its state at `starts` in the loss, as it did in the rollout, learns this within seconds. Needs
gymnax: `pip install -e ".[rl]"`.
"""

import time
from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import optax

import gru_jax

ENVS, STEPS, UPDATES, EPOCHS, MINIBATCHES = 64, 32, 40, 4, 2
HIDDEN, LEARNING_RATE, DISCOUNT, LAMBDA, CLIP, ENTROPY = 64, 1e-3, 0.99, 0.95, 0.2, 0.01

env, env_params = gymnax.make("MemoryChain-bsuite")
env_params = env_params.replace(memory_length=10)
reset_envs = jax.vmap(env.reset, (0, None))
step_envs = jax.vmap(env.step, (0, 0, 0, None))
optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(LEARNING_RATE))


class Transitions(NamedTuple):
    """Steps of all environments, (STEPS, ENVS, ...)."""

    observation: jax.Array
    action: jax.Array
    log_prob: jax.Array  # of the action, when it was taken
    value: jax.Array
    reward: jax.Array
    done: jax.Array  # whether the episode ended with this step


class Actor(NamedTuple):
    """What one rollout hands to the next."""

    state: jax.Array  # of the GRU
    observation: jax.Array
    done: jax.Array  # after the step before: the state is reset before the observation is read
    env_state: object


def init_agent(key):
    keys = jax.random.split(key, 2)
    features, actions = env.observation_space(env_params).shape[0], env.num_actions
    heads = jax.nn.initializers.orthogonal(0.01)(keys[1], (HIDDEN, actions + 1))
    return {"gru": gru_jax.init(keys[0], features, HIDDEN), "heads": heads}


def run_agent(agent, observations, state, starts):
    """All steps at once: the last state, log-probabilities of all actions, values."""
    state, ys = gru_jax.unroll(agent["gru"], observations, state, starts=starts)
    outputs = ys @ agent["heads"]
    return state, jax.nn.log_softmax(outputs[..., :-1]), outputs[..., -1]


def rollout(agent, actor, key):
    """Steps of all environments, and the value after the last one."""

    def act(actor, key):
        keys = jax.random.split(key, ENVS + 1)
        observation, done = actor.observation[None], actor.done[None]
        state, log_probs, value = run_agent(agent, observation, actor.state, done)
        action = jax.random.categorical(keys[0], log_probs[0])
        observation, env_state, reward, terminated, truncated, _ = step_envs(
            keys[1:], actor.env_state, action, env_params
        )
        done = terminated | truncated
        log_prob = take(log_probs[0], action)
        stored = Transitions(actor.observation, action, log_prob, value[0], reward, done)
        return Actor(state, observation, done, env_state), stored

    actor, steps = jax.lax.scan(act, actor, jax.random.split(key, STEPS))
    _, _, value = run_agent(agent, actor.observation[None], actor.state, actor.done[None])
    return actor, steps, value[0]


def take(log_probs, action):
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def advantages(steps, last_value):
    """Generalised advantage estimation (Schulman et al. 2016, equation 16)."""
    following = jnp.concatenate([steps.value[1:], last_value[None]])
    deltas = steps.reward + DISCOUNT * following * (1 - steps.done) - steps.value

    def body(advantage, step):
        delta, done = step
        advantage = delta + DISCOUNT * LAMBDA * (1 - done) * advantage
        return advantage, advantage

    zeros = jnp.zeros_like(last_value)
    return jax.lax.scan(body, zeros, (deltas, steps.done), reverse=True)[1]


def loss(agent, state, steps, starts, advantage, returns):
    _, log_probs, value = run_agent(agent, steps.observation, state, starts)
    ratio = jnp.exp(take(log_probs, steps.action) - steps.log_prob)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return jnp.mean(-surrogate + 0.5 * (value - returns) ** 2 - ENTROPY * entropy)


def update(carry, key):
    agent, opt_state, actor = carry
    rollout_key, *epoch_keys = jax.random.split(key, EPOCHS + 1)
    first_state, first_done = actor.state, actor.done
    actor, steps, last_value = rollout(agent, actor, rollout_key)
    # The rule that is so often broken: a step resets if the step before it ended an episode.
    starts = gru_jax.starts_from_dones(steps.done, first_done)
    advantage = advantages(steps, last_value)
    batch = (steps, starts, advantage, advantage + steps.value)

    def learn(carry, envs):  # a minibatch is a set of environments with all of their steps
        agent, opt_state = carry
        of_envs = jax.tree.map(lambda leaf: leaf[:, envs], batch)
        gradient = jax.grad(loss)(agent, first_state[envs], *of_envs)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(agent, updates), opt_state), None

    shuffled = [jax.random.permutation(key, ENVS).reshape(MINIBATCHES, -1) for key in epoch_keys]
    (agent, opt_state), _ = jax.lax.scan(learn, (agent, opt_state), jnp.concatenate(shuffled))
    # Only an episode's last step has a reward here, so this is the return of an episode.
    return (agent, opt_state, actor), steps.reward.sum() / steps.done.sum()


def main():
    start = time.perf_counter()
    agent = init_agent(jax.random.key(0))
    observation, env_state = reset_envs(jax.random.split(jax.random.key(1), ENVS), env_params)
    state = gru_jax.initial_state(agent["gru"], (ENVS,))
    actor = Actor(state, observation, jnp.ones(ENVS, bool), env_state)
    train = jax.jit(lambda carry, keys: jax.lax.scan(update, carry, keys))
    keys = jax.random.split(jax.random.key(2), UPDATES)
    _, returns = train((agent, optimizer.init(agent), actor), keys)
    for number in range(4, UPDATES, 5):
        print(f"{(number + 1) * STEPS * ENVS:6d} steps: mean return {returns[number]:.2f}")
    print(f"{time.perf_counter() - start:.0f} s; 1 is optimal, 0 is chance")
    return returns


if __name__ == "__main__":
    main()
