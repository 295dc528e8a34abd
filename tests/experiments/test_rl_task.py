"""Recurrent PPO: its parts, the environments, and the law that a replay is its rollout."""

import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from experiments.cli import main
from experiments.errors import UserError
from experiments.models import ppo
from experiments.runs.config_loading import check, load_config
from experiments.runs.directory import RunDirectory
from experiments.runs.run import restore_best
from experiments.tasks import rl
from gru_jax import export
from tests.slow import slow

pytest.importorskip("gymnax")

TINY = {
    "task": "rl",
    "length": 3,
    "rollout": 9,
    "updates_per_step": 1,
    "epochs": 2,
    "held_out": 6,
    "model": {"hidden_size": 5},
    "optimizer": {"learning_rate": 0.01},
    "training": {"steps": 4, "batch_size": 4, "eval_every": 2, "log_every": 1},
}


def make_agent(**changes):
    config = check(rl.Config, {**TINY, **changes}, where="test")
    task = rl.build(config, None)
    environments = rl.make_environments(config.environment, config.length)
    network = rl.build_network(
        config.model,
        environments.num_features,
        environments.num_actions + 1,
        readout="every step",
        seed=0,
    )
    return rl.Agent(network, environments, config), task


def test_advantages_are_those_of_a_loop():
    random = np.random.default_rng(0)
    time, number, discount, decay = 7, 3, 0.9, 0.8
    rewards, values = random.normal(size=(2, time, number)).astype(np.float32)
    dones = random.random((time, number)) < 0.3
    last_value = random.normal(size=number).astype(np.float32)
    expected = np.zeros((time, number))
    for n in range(number):
        for t in range(time):
            # The sum of discounted errors until the episode ends, term by term.
            weight = 1.0
            for k in range(t, time):
                following = last_value[n] if k + 1 == time else values[k + 1, n]
                following = 0.0 if dones[k, n] else following
                expected[t, n] += weight * (rewards[k, n] + discount * following - values[k, n])
                weight *= discount * decay
                if dones[k, n]:
                    break
    found = ppo.generalised_advantages(
        rewards, values, dones, last_value, discount=discount, decay=decay
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_objective_gains_nothing_beyond_the_clip():
    ratio = jnp.array([0.5, 0.9, 1.1, 1.5])
    for sign, expected in ((1.0, [0.5, 0.9, 1.1, 1.2]), (-1.0, [-0.8, -0.9, -1.1, -1.5])):
        found = ppo.clipped_surrogate(ratio, jnp.full(4, sign), 0.2)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    advantages = ppo.normalised(jnp.array([1.0, 2.0, 6.0]))
    np.testing.assert_allclose([advantages.mean(), advantages.std()], [0, 1], atol=1e-6)
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)
    expected = -(probabilities * np.log(probabilities)).sum(-1)
    np.testing.assert_allclose(ppo.entropy(jnp.log(probabilities)), expected, rtol=1e-6)
    chosen = ppo.log_prob_of(probabilities, jnp.array([1, 0]))
    np.testing.assert_allclose(chosen, [0.5, 0.9], rtol=1e-6)


@pytest.mark.parametrize(
    ("cell", "memory"),
    [
        ("gru", True),
        *(slow(*case) for case in (("lstm", True), ("rnn", True), ("gru", False))),
    ],
)
def test_a_replay_is_its_rollout_before_the_first_update(cell, memory):
    agent, task = make_agent(model={**TINY["model"], "cell": cell}, memory=memory)
    # Heads that tell states apart; the second rollout begins within episodes.
    params = jax.tree.map(lambda leaf: 3 * leaf, task.params)
    actor, key = task.carry, jax.random.key(1)
    for _ in range(2):
        before = actor
        actor, steps, _ = rl.rollout(agent, params, before, key)
        starts = rl.replay_starts(agent, before, steps)
        _, log_probs, values = rl.policy(agent, params, steps.observation, before.memory, starts)
        replayed = ppo.log_prob_of(log_probs, steps.action), values
        error = gru_jax.check_replay((steps.log_prob, steps.value), replayed, starts=starts)
        assert error < 2e-6
        assert steps.done.any()
    if memory:
        _, log_probs, values = rl.policy(
            agent, params, steps.observation, before.memory, steps.done
        )
        shifted = jnp.exp(ppo.log_prob_of(log_probs, steps.action) - steps.log_prob)
        assert jnp.abs(shifted - 1).max() > 0.1


def test_the_chain_pays_for_the_bit_of_its_first_step():
    environments = rl.make_environments("memory-chain", 4)
    observation, state = environments.reset(jax.random.key(0), 8)
    bit = (observation[:, 2] > 0).astype(int)
    for t in range(environments.longest):
        after = environments.step(jax.random.key(t), state, bit)
        state = after.state
        last = t + 1 == environments.longest
        np.testing.assert_array_equal(after.reward, float(last))
        assert after.done.all() == last
        assert after.done.any() == last


@pytest.mark.slow
@pytest.mark.parametrize("name", ["umbrella-chain", "bandit", "cart-pole"])
def test_episodes_end_within_their_longest_and_begin_again(name):
    agent, _ = make_agent(environment=name)
    environments = agent.environments
    assert environments.num_features == {"umbrella-chain": 3, "bandit": 4, "cart-pole": 2}[name]

    def act(carry, key):
        state, ended = carry
        after = environments.step(key, state, jax.random.randint(key, (4,), 0, 2))
        return (after.state, ended | after.done), after.observation

    _, state = environments.reset(jax.random.key(0), 4)
    keys = jax.random.split(jax.random.key(1), environments.longest)
    (state, ended), observations = jax.lax.scan(act, (state, jnp.zeros(4, bool)), keys)
    assert ended.all()
    assert observations.shape[1:] == (4, environments.num_features)


@pytest.mark.slow
def test_evaluation_counts_each_environments_first_episode_alone():
    agent, task = make_agent()
    always_right = 1.0

    def act(actor, key):
        # Remembers in place of the agent: the bit is in the environment's state.
        return actor.memory, actor.environment.context[:, 0]

    metrics, observations = rl.run_episodes(agent, act, jax.random.key(0))
    assert metrics["return"] == always_right
    assert metrics["steps"] == agent.environments.longest
    assert observations.shape == (agent.environments.longest, agent.environments.num_features)
    baseline = task.evaluate_baselines()["random actions"]
    assert -1 <= baseline["return"] <= 1


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(write_config, monkeypatch):
    config = write_config(TINY)
    assert main(["train", str(config), "--run-dir", "unbroken"]) == 0
    numbers = rl.batch_at

    def batch_at(step):
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return numbers(step)

    with monkeypatch.context() as patch:
        patch.setattr(rl, "batch_at", batch_at)
        assert main(["train", str(config), "--run-dir", "stopped"]) == 130
    assert main(["train", str(config), "--run-dir", "stopped"]) == 0
    summaries = [Path(name, "summary.json").read_bytes() for name in ("unbroken", "stopped")]
    assert summaries[0] == summaries[1]
    rows = [
        [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        for name in ("unbroken", "stopped")
    ]
    for left, right in zip(*rows, strict=True):
        for row in (left, right):
            row.pop("seconds"), row.pop("steps_per_second", None)
        assert left == right


@pytest.mark.slow
def test_environments_on_two_devices_are_those_on_one(write_config):
    config = write_config(TINY)
    rows = []
    for name, mesh in (("one", []), ("two", ["--mesh", "data=2"])):
        assert main(["train", str(config), "--run-dir", name, *mesh]) == 0
        lines = Path(name, "metrics.jsonl").read_text().splitlines()
        rows.append([row for row in map(json.loads, lines) if row["split"] == "train"])
    for one, two in zip(*rows, strict=True):
        for metric in ("return", "steps", "loss", "entropy"):
            assert two[metric] == pytest.approx(one[metric], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_compare_has_a_row_for_each_variant(write_config):
    variants = {"no memory": {"memory": False}, "shifted flags": {"replay_flags": "dones"}}
    config = write_config({**TINY, "variants": variants})
    options = ["--cells", "gru", "--seeds"]
    assert main(["compare", str(config), "--output", "together", *options, "2"]) == 0
    result = json.loads(Path("together", "compare.json").read_text())
    names = [model["cell"] for model in result["models"]]
    assert names == ["gru", "no memory", "shifted flags"]
    assert result["models"][1]["model"] == "GRU, 5 units, no memory"
    assert load_config(Path("together", "no-memory", "s1", "config.yaml")).memory is False
    assert "shifted flags" in Path("together", "compare.md").read_text()
    # Seeds that are trained as one program are those of runs of their own.
    options += ["1", "--vmap-seeds", "False"]
    assert main(["compare", str(config), "--output", "apart", *options]) == 0
    for model, alone in zip(
        result["models"],
        json.loads(Path("apart", "compare.json").read_text())["models"],
        strict=True,
    ):
        (value,) = alone["test"]["return"]["values"]
        assert model["test"]["return"]["values"][0] == pytest.approx(value, abs=1e-4)


@pytest.mark.slow
def test_exported_steps_act_as_the_policy_does(write_config):
    pytest.importorskip("onnxruntime")
    import onnxruntime

    config = write_config(TINY)
    assert main(["train", str(config), "--run-dir", "run"]) == 0
    assert main(["export", "run", "--to", "stablehlo"]) == 0
    assert main(["export", "run", "--to", "onnx"]) == 0
    run = RunDirectory(Path("run"))
    task, params = restore_best(run, load_config(run.config), Path())
    agent, _ = make_agent()
    step = export.load("run/export/step.zip").call
    session = onnxruntime.InferenceSession("run/export/model.onnx")
    observation, environment = agent.environments.reset(jax.random.key(3), 1)
    state = jax.tree.map(
        lambda leaf: np.zeros((1, *leaf.shape[1:]), np.float32),
        export.state_shapes(agent.network.stack(params), (1,)),
    )
    memory, h0 = task.carry.memory, np.zeros((1, 1, 5), np.float32)
    memory = jax.tree.map(lambda leaf: leaf[:1], memory)
    for t in range(agent.environments.longest):
        memory, log_probs, _ = rl.policy(
            agent, params, observation[None], memory, jnp.zeros((1, 1), bool)
        )
        state, outputs = step(state, np.asarray(observation))
        of_onnx, h0 = session.run(None, {"inputs": np.asarray(observation)[:, None], "h0": h0})
        for logits in (outputs[0, :-1], of_onnx[0, 0, :-1]):
            np.testing.assert_allclose(jax.nn.log_softmax(logits), log_probs[0, 0], atol=1e-5)
        action = jnp.argmax(outputs[:, :-1], axis=-1)
        after = agent.environments.step(jax.random.key(t), environment, action)
        observation, environment = after.observation, after.state
    assert after.done.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatches": 3}, "minibatches is 3, but should divide training.batch_size, which is 4"),
        ({"model": {"dropout": 0.1}}, "model.dropout is 0.1, but should be 0"),
        ({"model": {"bidirectional": True}}, "model.bidirectional is True"),
        ({"environment": "pong"}, "environment"),
        ({"variants": {"No memory": {}}}, "variants"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        check(rl.Config, {**TINY, **changes}, where="test")


def test_variants_are_checked_before_anything_is_trained(write_config, user_error):
    config = write_config({**TINY, "variants": {"no memory": {"memmory": False}}})
    assert "memmory" in user_error("train", config)
    config = write_config({**TINY, "variants": {"wide": {"model.hidden_size": 9}}})
    assert "variants.wide: model.hidden_size is chosen" in user_error("compare", config)
