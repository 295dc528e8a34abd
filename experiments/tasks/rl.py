"""Recurrent proximal policy optimisation on environments that need memory."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gru_jax
from experiments import plots
from experiments.datasets.environments import Environments, make_environments
from experiments.evaluation import on_one_device
from experiments.export_spec import PrePost, make_export_spec
from experiments.models import ppo
from experiments.models.gate_activations import gates
from experiments.models.recurrent import Network, build_network
from experiments.task import Task
from experiments.tasks.configs import RlConfig as Config
from experiments.typing import Metrics, Params, Split
from gru_jax.training import TrainState

EVALUATION_SEEDS: dict[str, int] = {"validation": 1, "test": 2}
"""Seeds of the episodes of an evaluation, which do not depend on the seed of the run."""


class Actor(NamedTuple):
    """What one rollout hands to the next, by environment."""

    memory: Any  # the states of the recurrent layers
    observation: jax.Array
    done: jax.Array  # whether the step before ended an episode
    environment: Any
    episode_return: jax.Array  # of the episode so far
    episode_steps: jax.Array


class Steps(NamedTuple):
    """A rollout, (T, N, ...)."""

    observation: jax.Array
    start: jax.Array  # whether the memory was reset before the observation was read
    action: jax.Array
    log_prob: jax.Array  # of the action
    value: jax.Array
    reward: jax.Array
    done: jax.Array
    ended_return: jax.Array  # of the episode that ended with the step; 0 where none did
    ended_steps: jax.Array


class Minibatch(NamedTuple):
    """All steps of some environments, and their memory before the first of them."""

    memory: Any
    steps: Steps
    starts: jax.Array  # of the replay
    advantages: jax.Array
    returns: jax.Array


class Agent(NamedTuple):
    """Network, environments and settings, as the functions below take them."""

    network: Network
    environments: Environments
    config: Config


def build(config: Config, data_dir: Path) -> Task:
    """Binds a config to environments; `data_dir` is not used.

    Raises:
        UserError: gymnax is not installed.
    """
    del data_dir
    environments = make_environments(config.environment, config.length)
    features, actions = environments.num_features, environments.num_actions
    network = build_network(
        config.model, features, actions + 1, readout="every step", seed=config.seed
    )
    agent = Agent(network, environments, config)

    def update(
        optimizer: optax.GradientTransformation, state: TrainState, batch: Any, seed: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        del batch
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        carry = (state.params, state.opt_state, state.carry)
        (params, opt_state, actor), metrics = lax.scan(
            lambda carry, key: ppo_update(agent, optimizer, carry, key),
            carry,
            jax.random.split(key, config.updates_per_step),
        )
        ended = jnp.maximum(1.0, metrics.pop("ended").sum())
        means = {name: metrics.pop(name).sum() / ended for name in ("return", "steps")}
        worst = {"replay_error": metrics.pop("replay_error").max()}
        return (
            TrainState(state.step + 1, params, opt_state, actor),
            {**means, **worst, **jax.tree.map(jnp.mean, metrics)},
        )

    evaluate_episodes = jax.jit(lambda params, key: evaluate(agent, params, key))

    def evaluate_split(params: Params, split: Split) -> Metrics:
        key = jax.random.key(EVALUATION_SEEDS[split])
        metrics, _ = evaluate_episodes(on_one_device(params), key)
        return {name: float(value) for name, value in metrics.items()}

    def plot(params: Params, directory: Path) -> None:
        cell = network.first_cell(params)
        if type(cell) is not gru_jax.GRUParams:
            return
        _, observations = evaluate_episodes(params, jax.random.key(EVALUATION_SEEDS["test"]))
        plots.gate_activity(
            gates(cell, observations),
            np.asarray(observations[:, -1]),
            "Gates of the first layer in a test episode, and the last feature of the observation",
            directory / "gate_activity.png",
            tick_every=max(len(observations) // 10, 1),
        )

    def baselines() -> dict[str, Metrics]:
        return {"random actions": random_policy(agent)}

    return Task(
        params=network.params,
        loss=None,
        update=update,
        batch_at=batch_at,
        evaluate=evaluate_split,
        metric_labels={"return": "return of an episode", "steps": "steps of an episode"},
        loss_metric="return",
        train_metric="return",
        monitor="return",
        baselines=baselines,
        plot=plot,
        carry=initial_actor(agent, jax.random.key(config.seed), config.training.batch_size),
        export_spec=make_export_spec(
            network, PrePost(), ("batch", "time", features), ("batch", "time", actions + 1)
        ),
    )


def batch_at(step: int) -> np.ndarray:
    """The number of a step: an update makes its data itself, of the actor and the step's key."""
    return np.asarray(step)


def initial_actor(agent: Agent, key: jax.Array, number: int) -> Actor:
    """Environments at the first step of an episode, each."""
    observation, environment = agent.environments.reset(key, number)
    one_step = jax.ShapeDtypeStruct(observation[:, None].shape, observation.dtype)
    memory = agent.network.initial_carry(one_step)
    zeros = jnp.zeros(number)
    return Actor(memory, observation, jnp.ones(number, bool), environment, zeros, zeros)


def policy(
    agent: Agent, params: Params, observations: jax.Array, memory: Any, starts: jax.Array
) -> tuple[Any, jax.Array, jax.Array]:
    """Runs the network over steps (T, N, ...): memory, log-probabilities (T, N, A), values."""
    outputs, memory = agent.network.run(
        params, observations.swapaxes(0, 1), carry=memory, starts=starts.T
    )
    outputs = outputs.swapaxes(0, 1)
    return memory, jax.nn.log_softmax(outputs[..., :-1]), outputs[..., -1]


def start_of(agent: Agent, done: jax.Array) -> jax.Array:
    """Whether the memory is reset: at an episode's first step; without memory at every step."""
    return done if agent.config.memory else jnp.ones_like(done)


def rollout(
    agent: Agent, params: Params, actor: Actor, key: jax.Array
) -> tuple[Actor, Steps, jax.Array]:
    """Takes ``config.rollout`` steps: the actor after them, the steps, the values after them."""

    def act(actor: Actor, key: jax.Array) -> tuple[Actor, Steps]:
        action_key, environment_key = jax.random.split(key)
        start = start_of(agent, actor.done)
        memory, log_probs, value = policy(
            agent, params, actor.observation[None], actor.memory, start[None]
        )
        action = jax.random.categorical(action_key, log_probs[0])
        after = agent.environments.step(environment_key, actor.environment, action)
        episode_return = actor.episode_return + after.reward
        episode_steps = actor.episode_steps + 1
        steps = Steps(
            actor.observation,
            start,
            action,
            ppo.log_prob_of(log_probs[0], action),
            value[0],
            after.reward,
            after.done,
            jnp.where(after.done, episode_return, 0),
            jnp.where(after.done, episode_steps, 0),
        )
        actor = Actor(
            memory,
            after.observation,
            after.done,
            after.state,
            jnp.where(after.done, 0, episode_return),
            jnp.where(after.done, 0, episode_steps),
        )
        return actor, steps

    actor, steps = lax.scan(act, actor, jax.random.split(key, agent.config.rollout))
    start = start_of(agent, actor.done)
    _, _, last_value = policy(agent, params, actor.observation[None], actor.memory, start[None])
    return actor, steps, last_value[0]


def replay_starts(agent: Agent, actor: Actor, steps: Steps) -> jax.Array:
    """The flags that the loss resets the memory by, from the actor before the rollout."""
    if agent.config.replay_flags == "dones":
        return steps.done
    return start_of(agent, gru_jax.starts_from_dones(steps.done, actor.done))


def loss(
    agent: Agent, params: Params, batch: Minibatch
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The loss; the largest ``|ratio - 1|``, and the entropy."""
    config, steps = agent.config, batch.steps
    _, log_probs, values = policy(agent, params, steps.observation, batch.memory, batch.starts)
    ratio = jnp.exp(ppo.log_prob_of(log_probs, steps.action) - steps.log_prob)
    surrogate = ppo.clipped_surrogate(ratio, ppo.normalised(batch.advantages), config.clip)
    entropy = ppo.entropy(log_probs)
    value_loss = 0.5 * jnp.square(values - batch.returns)
    per_step = config.value_weight * value_loss - surrogate - config.entropy_weight * entropy
    return per_step.mean(), (jnp.abs(ratio - 1).max(), entropy.mean())


def ppo_update(
    agent: Agent, optimizer: optax.GradientTransformation, carry: tuple[Any, ...], key: jax.Array
) -> tuple[tuple[Any, ...], dict[str, jax.Array]]:
    """One rollout and the epochs that learn from it; the carry is parameters, optimiser, actor."""
    config = agent.config
    params, opt_state, before = carry
    rollout_key, shuffle_key = jax.random.split(key)
    actor, steps, last_value = rollout(agent, params, before, rollout_key)
    advantages = ppo.generalised_advantages(
        steps.reward,
        steps.value,
        steps.done,
        last_value,
        discount=config.discount,
        decay=config.gae_decay,
    )
    over_time = (steps, replay_starts(agent, before, steps), advantages, advantages + steps.value)

    def learn(carry: tuple[Any, Any], chosen: jax.Array) -> tuple[tuple[Any, Any], Any]:
        params, opt_state = carry
        memory = jax.tree.map(lambda leaf: leaf[chosen], before.memory)
        batch = Minibatch(memory, *jax.tree.map(lambda leaf: leaf[:, chosen], over_time))
        (value, aux), gradients = jax.value_and_grad(
            lambda params: loss(agent, params, batch), has_aux=True
        )(params)
        # Optax relies on implicit promotion, which the caller may have turned off.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            norm = optax.tree.norm(gradients)
        return (params, opt_state), (value, norm, *aux)

    def shuffled(key: jax.Array) -> jax.Array:
        order = jax.random.permutation(key, config.training.batch_size)
        return order.reshape(config.minibatches, -1)

    minibatches = jax.vmap(shuffled)(jax.random.split(shuffle_key, config.epochs))
    minibatches = minibatches.reshape(-1, minibatches.shape[-1])
    (params, opt_state), (losses, norms, errors, entropies) = lax.scan(
        learn, (params, opt_state), minibatches
    )
    metrics = {
        "loss": losses.mean(),
        "grad_norm": norms.mean(),
        # Before the first update the replay must be the rollout.
        "replay_error": errors[0],
        "entropy": entropies.mean(),
        "ended": steps.done.astype(jnp.float32).sum(),
        "return": steps.ended_return.sum(),
        "steps": steps.ended_steps.sum(),
    }
    return (params, opt_state, actor), metrics


def evaluate(
    agent: Agent, params: Params, key: jax.Array
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Mean return and steps of whole episodes with greedy actions, and one's observations."""

    def greedy(actor: Actor, key: jax.Array) -> tuple[Any, jax.Array]:
        start = start_of(agent, actor.done)
        memory, log_probs, _ = policy(
            agent, params, actor.observation[None], actor.memory, start[None]
        )
        return memory, log_probs[0].argmax(axis=-1)

    return run_episodes(agent, greedy, key)


def random_policy(agent: Agent) -> Metrics:
    """Metrics of actions sampled uniformly, over the test episodes."""

    def act(actor: Actor, key: jax.Array) -> tuple[Any, jax.Array]:
        actions = agent.environments.num_actions
        return actor.memory, jax.random.randint(key, actor.done.shape, 0, actions)

    metrics, _ = jax.jit(lambda key: run_episodes(agent, act, key))(
        jax.random.key(EVALUATION_SEEDS["test"])
    )
    return {name: float(value) for name, value in metrics.items()}


def run_episodes(agent: Agent, act: Any, key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """Runs one episode in each of ``config.held_out`` environments.

    ``act`` is (actor, key) -> (memory, actions).
    """
    number, environments = agent.config.held_out, agent.environments
    reset_key, key = jax.random.split(key)
    first = initial_actor(agent, reset_key, number)

    def step(
        carry: tuple[Actor, jax.Array], key: jax.Array
    ) -> tuple[tuple[Actor, jax.Array], jax.Array]:
        actor, is_over = carry
        action_key, environment_key = jax.random.split(key)
        memory, actions = act(actor, action_key)
        after = environments.step(environment_key, actor.environment, actions)
        going_on = jnp.where(is_over, 0.0, 1.0)
        actor = Actor(
            memory,
            after.observation,
            after.done,
            after.state,
            actor.episode_return + going_on * after.reward,
            actor.episode_steps + going_on,
        )
        return (actor, is_over | after.done), after.observation[0]

    keys = jax.random.split(key, environments.longest)
    (actor, _), observations = lax.scan(step, (first, jnp.zeros(number, bool)), keys)
    metrics = {"return": actor.episode_return.mean(), "steps": actor.episode_steps.mean()}
    return metrics, jnp.concatenate([first.observation[:1], observations[:-1]])
