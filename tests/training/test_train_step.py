"""Properties of the train state and the train step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_jax
from gru_jax import training
from tests.slow import slow
from tests.training import regression_problem as problem


def quiet_loss(params, batch, key):
    """The same without noise, so that micro-batches can make up a batch."""
    inputs, targets = batch
    return jnp.mean(jnp.square(problem.predict(params, inputs) - targets)), {}


@pytest.mark.parametrize("accumulate_steps", [2, 4])
def test_accumulating_equal_micro_batches_equals_one_batch(accumulate_steps):
    inputs, targets = (array[:8] for array in problem.make_data())
    options = {"learning_rate": 0.1, "max_grad_norm": 0.5, "weight_decay": 0.01}

    def train(accumulate_steps, batches):
        optimizer = training.make_optimizer(**options, accumulate_steps=accumulate_steps)
        step = training.make_train_step(quiet_loss, optimizer)
        state = training.TrainState.create(problem.make_params(), optimizer)
        for batch in batches:
            state, _ = step(state, batch)
        return state.params

    whole = train(1, [(inputs, targets)] * 3)
    micro_batches = list(
        zip(np.split(inputs, accumulate_steps), np.split(targets, accumulate_steps), strict=True)
    )
    accumulated = train(accumulate_steps, micro_batches * 3)
    chex.assert_trees_all_close(whole, accumulated, rtol=2e-5, atol=1e-6)

    initial = problem.make_params()
    problem.assert_same(train(accumulate_steps, micro_batches[:-1]), initial)


def test_accumulating_weighted_micro_batches_equals_one_batch():
    """Of unequal sizes; one has no elements, and so a loss and a gradient that are no numbers."""
    inputs, targets = (array[:8] for array in problem.make_data())
    options = {"learning_rate": 0.1, "max_grad_norm": 0.5}
    sizes = [5, 0, 1, 2]

    def train(batches, **accumulation):
        optimizer = training.make_optimizer(**options, **accumulation)
        step = training.make_train_step(
            quiet_loss, optimizer, batch_weight=lambda batch: batch[0].shape[0]
        )
        state = training.TrainState.create(problem.make_params(), optimizer)
        for batch in batches:
            state, _ = step(state, batch)
        return state.params

    bounds = np.cumsum(sizes)[:-1]
    micro_batches = list(zip(np.split(inputs, bounds), np.split(targets, bounds), strict=True))
    whole = train([(inputs, targets)] * 3)
    accumulated = train(micro_batches * 3, accumulate_steps=4, accumulate_by_weight=True)
    chex.assert_trees_all_close(whole, accumulated, rtol=2e-5, atol=1e-6)
    waiting = train(micro_batches[:3], accumulate_steps=4, accumulate_by_weight=True)
    problem.assert_same(waiting, problem.make_params())


def test_weights_that_the_optimizer_would_ignore_are_rejected():
    optimizer = training.make_optimizer(accumulate_steps=2)
    step = training.make_train_step(quiet_loss, optimizer, batch_weight=lambda batch: 1)
    state = training.TrainState.create(problem.make_params(), optimizer)
    with pytest.raises(ValueError, match="accumulate_by_weight=True"):
        step(state, problem.batch_at(0))


def test_metrics_are_those_of_the_loss_function_and_the_gradients():
    optimizer = training.make_optimizer(0.1, max_grad_norm=1e-3)
    params, batch = problem.make_params(), problem.batch_at(0)
    key = jax.random.fold_in(jax.random.key(5), 0)
    loss, extra = problem.loss_fn(params, batch, key)
    gradients = jax.grad(lambda p: problem.loss_fn(p, batch, key)[0])(params)

    step = training.make_train_step(problem.loss_fn, optimizer, seed=5)
    _, metrics = step(training.TrainState.create(params, optimizer), batch)
    assert set(metrics) == {"loss", "absolute", "grad_norm"}
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["absolute"], extra["absolute"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradients), rtol=1e-5)


def test_random_key_is_a_function_of_seed_and_step():
    optimizer = training.make_optimizer()

    def reveal(params, batch, key):
        return jnp.sum(params["a"]), {"noise": jax.random.uniform(key)}

    steps = {seed: training.make_train_step(reveal, optimizer, seed=seed) for seed in (7, 8)}

    def noises(seed):
        state = training.TrainState.create({"a": jnp.ones(2)}, optimizer)
        found = []
        for _ in range(3):
            state, metrics = steps[seed](state, None)
            found.append(float(metrics["noise"]))
        return found

    expected = [
        float(jax.random.uniform(jax.random.fold_in(jax.random.key(7), step))) for step in range(3)
    ]
    assert noises(7) == expected
    assert noises(7) == noises(7)
    assert len(set(noises(7) + noises(8))) == 6


def test_state_is_donated_and_the_parameters_handed_in_are_not():
    params = problem.make_params()
    state = training.TrainState.create(params, problem.make_optimizer())
    new_state, _ = problem.make_train_step()(state, problem.batch_at(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, new_state)))
    assert int(new_state.step) == 1


def test_an_array_in_two_places_can_be_trained():
    shared = jnp.ones((3,))

    def loss(params, batch, key):
        return jnp.sum(params["a"] * params["b"]), {}

    optimizer = training.make_optimizer(0.1, name="sgd")
    state = training.TrainState.create({"a": shared, "b": shared}, optimizer)
    state, _ = training.make_train_step(loss, optimizer)(state, None)
    np.testing.assert_allclose(state.params["a"], 0.9, rtol=1e-6)


def test_one_compilation_though_parameters_began_as_python_numbers():
    @chex.assert_max_traces(n=1)
    def loss(params, batch, key):
        return jnp.square(params["scale"] - 3.0), {}

    optimizer = training.make_optimizer(0.1)
    state = training.TrainState.create({"scale": 1.0}, optimizer)
    step = training.make_train_step(loss, optimizer)
    for _ in range(3):
        state, _ = step(state, None)


@pytest.mark.parametrize(
    ("name", "accumulate_steps", "by_weight"),
    [
        slow("adam", 1, False),
        ("adamw", 2, True),
        slow("adamw", 2, False),
        slow("sgd", 1, False),
        ("rmsprop", 2, False),
        *(slow(name, 1, False) for name in ("adamw", "rmsprop")),
        *(slow(name, 2, False) for name in ("adam", "sgd")),
    ],
)
def test_bfloat16_parameters_stay_bfloat16(name, accumulate_steps, by_weight):
    params = gru_jax.init(jax.random.key(0), 3, 4, dtype=jnp.bfloat16)
    optimizer = training.make_optimizer(
        0.1,
        name=name,
        accumulate_steps=accumulate_steps,
        accumulate_by_weight=by_weight,
        max_grad_norm=1.0,
        weight_decay=0.1,
    )

    def loss(params, batch, key):
        last, _ = gru_jax.unroll(params, batch)
        return jnp.mean(jnp.square(last)), {}

    state = training.TrainState.create(params, optimizer)
    avals = jax.eval_shape(lambda: state)
    step = training.make_train_step(loss, optimizer)
    batch = jax.random.normal(jax.random.key(1), (5, 2, 3)).astype(jnp.bfloat16)
    for _ in range(2):
        state, metrics = step(state, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, avals)
    assert metrics["grad_norm"].dtype == jnp.float32
    assert not np.array_equal(state.params.w_h, params.w_h)


def test_metrics_that_are_not_scalars_are_named():
    optimizer = training.make_optimizer()

    def loss(params, batch, key):
        return jnp.sum(params), {"errors": params}

    step = training.make_train_step(loss, optimizer)
    with pytest.raises(ValueError, match=r"'errors' of shape \(2,\)"):
        step(training.TrainState.create(jnp.ones(2), optimizer), None)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_metrics_that_the_step_would_overwrite_are_rejected(name):
    optimizer = training.make_optimizer()
    step = training.make_train_step(lambda p, b, k: (jnp.sum(p), {name: jnp.ones(())}), optimizer)
    with pytest.raises(ValueError, match=f"must not return a metric {name!r}"):
        step(training.TrainState.create(jnp.ones(2), optimizer), None)


def make_step(loss_fn=problem.loss_fn, optimizer=None, **options):
    return training.make_train_step(loss_fn, optimizer or training.make_optimizer(), **options)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"loss_fn": 3}, TypeError, ["loss_fn", "function", "int"]),
        ({"optimizer": "adam"}, TypeError, ["optimizer", "GradientTransformation", "str"]),
        ({"batch_weight": 2.0}, TypeError, ["batch_weight", "function", "float"]),
        ({"seed": 0.5}, TypeError, ["seed", "0.5"]),
        ({"seed": -1}, ValueError, ["seed", "-1"]),
        # Its key would be that of 0.
        ({"seed": 2**32}, ValueError, ["seed", "4294967296"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        make_step(**arguments)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("seeds", "error", "words"),
    [(3, TypeError, "sequence"), ([], ValueError, "none"), ([0, 2**32], ValueError, "4294967296")],
)
def test_wrong_seeds_of_vmapped_runs_are_named(seeds, error, words):
    with pytest.raises(error, match=words):
        training.make_vmapped_train_step(problem.loss_fn, training.make_optimizer(), seeds=seeds)


@pytest.mark.parametrize(
    ("carry", "result", "error", "words"),
    [
        (None, lambda loss: loss, TypeError, r"\(loss, metrics\)"),
        (None, lambda loss: (loss, [1]), TypeError, "metrics a dict, got list"),
        (None, lambda loss: (jnp.ones(3) * loss, {}), ValueError, r"scalar loss, got shape \(3,\)"),
        (jnp.ones(()), lambda loss: (loss, {}), TypeError, r"\(loss, \(metrics, carry\)\)"),
    ],
)
def test_wrong_results_of_a_loss_function_are_named(carry, result, error, words):
    optimizer = training.make_optimizer()
    step = make_step(lambda params, *arguments: result(jnp.sum(params)), optimizer)
    state = training.TrainState.create(jnp.ones(2), optimizer, carry)
    with pytest.raises(error, match=words):
        step(state, None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("adam", 2), TypeError, r"inner must be an optax\.GradientTransformation, got str"),
        ((optax.sgd(1.0), 0), ValueError, "steps must be a positive integer"),
    ],
)
def test_wrong_arguments_of_an_accumulation_are_named(arguments, error, words):
    with pytest.raises(error, match=words):
        training.weighted_accumulation(*arguments)


def test_vmapped_runs_equal_separate_runs():
    """Also of a seed that no int32 holds."""
    optimizer = training.make_optimizer(0.05, name="adamw", max_grad_norm=0.1, weight_decay=0.1)
    seeds = [3, 0, 2**32 - 1]
    states = [
        training.TrainState.create(
            jax.tree.map(lambda leaf, seed=seed: leaf + 0.1 * (seed % 8), problem.make_params()),
            optimizer,
        )
        for seed in seeds
    ]
    stacked = training.TrainState.stack(states)
    vmapped_step = training.make_vmapped_train_step(problem.loss_fn, optimizer, seeds=seeds)
    single_steps = [training.make_train_step(problem.loss_fn, optimizer, seed=s) for s in seeds]
    for step in range(3):
        batches = [problem.batch_at(10 * (seed % 8) + step) for seed in seeds]
        stacked, metrics = vmapped_step(
            stacked, jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        )
        for index, (single_step, batch) in enumerate(zip(single_steps, batches, strict=True)):
            states[index], expected = single_step(states[index], batch)
            for name, value in expected.items():
                np.testing.assert_allclose(metrics[name][index], value, rtol=1e-4)
    assert stacked.step == 3
    for index, state in enumerate(states):
        chex.assert_trees_all_close(stacked.unstack(index), state, rtol=1e-4, atol=1e-6)


def test_the_carry_is_passed_from_step_to_step():
    optimizer = training.make_optimizer(0.1)

    def loss_fn(params, batch, key, carry):
        loss, metrics = problem.loss_fn(params, batch, key)
        return loss, (metrics, {"sum": carry["sum"] + jnp.sum(batch[1])})

    step = training.make_train_step(loss_fn, optimizer)
    carry = {"sum": jnp.zeros(())}
    state = training.TrainState.create(problem.make_params(), optimizer, carry)
    plain_step = training.make_train_step(problem.loss_fn, optimizer)
    plain = training.TrainState.create(problem.make_params(), optimizer)
    total = 0.0
    for index in range(3):
        batch = problem.batch_at(index)
        state, _ = step(state, batch)
        plain, _ = plain_step(plain, batch)
        total += batch[1].sum()
        np.testing.assert_allclose(state.carry["sum"], total, rtol=1e-5)
    problem.assert_same(state.params, plain.params)
    assert plain.carry is None
