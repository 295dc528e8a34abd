"""Properties of the tasks' data, baselines and losses that hold for any seed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

import gru_jax
from experiments.classifiers import GAMMAS, SVC_COSTS, Examples, baselines, select
from experiments.models.gate_activations import gates
from experiments.runs.config_loading import check
from experiments.tasks import adding as adding_task
from experiments.tasks import digits as digits_task
from experiments.tasks import load_task
from tests.slow import slow


def build(values, data_dir=None):
    module = load_task(values["task"])
    return module.build(check(module.Config, values, where="test"), data_dir)


def leaves_equal(left, right):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, left, right)))


def test_digits_splits_are_a_partition():
    splits = digits_task.split_digits()
    assert [len(split.labels) for split in splits.values()] == [1077, 360, 360]
    everything = np.concatenate([split.pixels for split in splits.values()])
    original = digits_task.load_digits().data / 16
    assert sorted(map(tuple, everything)) == sorted(map(tuple, original.astype(np.float32)))
    for split in splits.values():
        shares = np.bincount(split.labels) / len(split.labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.005)


@pytest.fixture(scope="module")
def examples():
    return [Examples(*split) for split in digits_task.split_digits().values()]


@pytest.fixture(scope="module")
def of_digits(examples):
    return baselines(*examples)


@pytest.mark.slow
def test_digits_baselines_match_their_definitions(examples, of_digits):
    (train, _, test), metrics = examples, of_digits
    majority = np.bincount(train.labels).argmax()
    assert metrics["majority class"]["accuracy"] == np.mean(test.labels == majority)
    assert 0.95 < metrics["logistic regression"]["accuracy"] < 0.98
    distances = np.square(test.features[:, None] - train.features).sum(axis=-1)
    nearest = np.mean(train.labels[distances.argmin(axis=1)] == test.labels)
    assert metrics["nearest neighbour"] == {"accuracy": nearest}


@pytest.mark.slow
def test_the_svc_is_the_best_of_the_grid_by_the_validation_split(examples, of_digits):
    train, validation, test = examples
    fitted_to = np.arange(len(train.labels))
    search = GridSearchCV(
        SVC(),
        {"C": SVC_COSTS, "gamma": np.array(GAMMAS) / (64 * np.var(train.features))},
        cv=[(fitted_to, len(train.labels) + np.arange(len(validation.labels)))],
        refit=False,
    ).fit(*map(np.concatenate, zip(train, validation, strict=True)))
    expected = SVC(**search.best_params_).fit(*train).score(*test)
    assert of_digits["SVC, Gaussian kernel"] == {"accuracy": expected}


@pytest.mark.slow
def test_select_is_by_the_validation_split_and_fits_the_training_split(examples):
    train, validation, _ = examples
    strict, loose = (LogisticRegression(C=cost, max_iter=1000) for cost in (1e-4, 1.0))
    assert select([strict, loose], train, validation) is loose
    again = LogisticRegression(C=1.0, max_iter=1000).fit(*train)
    np.testing.assert_allclose(loose.coef_, again.coef_)
    # The smaller penalty misses all labels that are wrong, the larger one hits some of them.
    wrong = Examples(validation.features, (validation.labels + 1) % 10)
    assert select([loose, strict], train, wrong) is strict


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(2, 30), st.integers(0, 2**31))
def test_sums_are_of_the_two_marked_numbers(number, length, seed):
    batch = adding_task.sample_sums(number, length, (seed,))
    numbers, marks = batch.sequences[..., 0], batch.sequences[..., 1]
    assert set(np.unique(marks)) <= {0.0, 1.0}
    np.testing.assert_array_equal(marks.sum(axis=1), 2)
    np.testing.assert_allclose((numbers * marks).sum(axis=1), batch.sums, rtol=1e-6)
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_every_pair_of_steps_is_marked_equally_often():
    marks = adding_task.sample_sums(6000, 4, (0,)).sequences[..., 1].astype(int)
    pairs, counts = np.unique(marks, axis=0, return_counts=True)
    assert len(pairs) == 6
    # Six standard deviations of a binomial of 6000 samples at 1/6.
    np.testing.assert_allclose(counts, 1000, atol=6 * np.sqrt(6000 * 5 / 36))


def test_the_mean_sum_has_an_mse_of_one_sixth():
    test = adding_task.sample_sums(20_000, 10, (0,))
    mse = adding_task.baselines(test)["mean of all sums"]["mse"]
    np.testing.assert_allclose(mse, 1 / 6, atol=0.01)


@pytest.mark.parametrize("task", ["adding", "digits"])
def test_batches_are_a_function_of_seed_and_step(request, task):
    values = request.getfixturevalue(task)
    first, again = build(values), build(values)
    other = build({**values, "seed": 1})
    assert leaves_equal(first.batch_at(5), again.batch_at(5))
    assert not leaves_equal(first.batch_at(5), first.batch_at(6))
    assert not leaves_equal(first.batch_at(5), other.batch_at(5))
    assert leaves_equal(first.params, again.params)
    assert not leaves_equal(first.params, other.params)


@pytest.mark.parametrize("task", ["adding", "copy"])
def test_epochs_repeat_a_fixed_training_set(adding, task):
    values = {**adding, "task": task, "train_sequences": 24}

    def epoch(task, number):
        batches = [task.batch_at(step) for step in range(3 * number, 3 * (number + 1))]
        return np.concatenate([batch[0].reshape(8, -1) for batch in batches])

    def rows(sequences):
        return sorted(map(tuple, sequences))

    fixed, other_order, fresh = (
        build(values),
        build({**values, "seed": 1}),
        build({**values, "train_sequences": None}),
    )
    first = epoch(fixed, 0)
    assert len(np.unique(first, axis=0)) == 24
    assert rows(epoch(fixed, 1)) == rows(first) == rows(epoch(other_order, 0))
    assert not np.array_equal(epoch(fixed, 1), first)
    assert not np.array_equal(epoch(other_order, 0), first)
    assert not set(rows(epoch(fresh, 1))) & set(rows(epoch(fresh, 0)))


@pytest.mark.parametrize(
    ("cell", "bidirectional"),
    [slow("gru", False), ("lstm", True), slow("gru", True), slow("rnn", False)],
)
def test_every_cell_learns_through_the_same_network(adding, cell, bidirectional):
    model = {"cell": cell, "hidden_size": 3, "num_layers": 2, "bidirectional": bidirectional}
    task = build({**adding, "model": {**model, "dropout": 0.5, "dropconnect": 0.5}})
    key = jax.random.key(0)
    value_and_grad = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    (loss, _), gradients = value_and_grad(task.params, task.batch_at(0), key)
    chex.assert_tree_all_finite((loss, gradients))
    without_key = jax.jit(lambda params: task.loss(params, task.batch_at(0), None)[0])
    assert loss != without_key(task.params)


@pytest.mark.parametrize(("cell", "init"), [("gru", gru_jax.init), ("lstm", gru_jax.init_lstm)])
def test_chrono_bias_gives_the_biases_of_the_cells_initialiser(adding, cell, init):
    model = {"cell": cell, "hidden_size": 3, "chrono_bias": 50.0}
    network = adding_task.make_network(
        check(adding_task.Config, {**adding, "model": model}, where="")
    )
    expected = init(jax.random.key(0), 2, 3, chrono_bias=50.0).b
    np.testing.assert_array_equal(network.first_cell(network.params).b, expected)


def test_chrono_bias_leaves_the_plain_rnn_as_it_is(adding):
    plain = build({**adding, "model": {"cell": "rnn", "hidden_size": 3}})
    given = build({**adding, "model": {"cell": "rnn", "hidden_size": 3, "chrono_bias": 50.0}})
    assert leaves_equal(plain.params, given.params)


def test_dropconnect_touches_recurrent_weights_only(adding):
    task = build({**adding, "model": {"hidden_size": 3, "dropconnect": 0.5}})

    def silence(path, leaf):
        return jnp.zeros_like(leaf) if "w_h" in jax.tree_util.keystr(path) else leaf

    silent = jax.tree.map_with_path(silence, task.params)
    batch = task.batch_at(0)
    # With recurrent weights of zero, DropConnect has no effect.
    assert task.loss(silent, batch, jax.random.key(0)) == task.loss(silent, batch, None)
    assert task.loss(task.params, batch, jax.random.key(0)) != task.loss(task.params, batch, None)


@pytest.mark.parametrize(("cell", "gates"), [("gru", {"gate_activity.png"}), ("rnn", set())])
def test_runs_of_a_gru_on_the_adding_problem_plot_its_gates(adding, tmp_path, cell, gates):
    task = build({**adding, "model": {"cell": cell, "hidden_size": 3}})
    task.plot(task.params, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.png"} | gates


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gates_are_those_of_the_equations(reset):
    key = jax.random.key(0)
    cell = gru_jax.init(key, 2, 3, reset=reset, bias_init="torch", learned_h0=True)
    cell = gru_jax.GRUParams(cell.w_x, cell.w_h, cell.b, cell.b_hn, jnp.full(3, 0.5), reset)
    xs = jax.random.normal(key, (5, 2))
    found = gates(cell, xs)
    w_r, w_z, _ = jnp.split(cell.w_x, 3, axis=1)
    u_r, u_z, _ = jnp.split(cell.w_h, 3, axis=1)
    b_r, b_z, _ = jnp.split(cell.b, 3)
    h = cell.h0
    for step, x in enumerate(xs):
        expected_r = jax.nn.sigmoid(x @ w_r + h @ u_r + b_r)
        expected_z = jax.nn.sigmoid(x @ w_z + h @ u_z + b_z)
        np.testing.assert_allclose(found["reset gate r"][step], expected_r, rtol=1e-5)
        np.testing.assert_allclose(found["update gate z"][step], expected_z, rtol=1e-5)
        h = gru_jax.step(cell, h, x)


def test_baselines_do_not_depend_on_the_number_of_threads(digits):
    task = build(digits)
    with threadpool_limits(1):
        expected = task.evaluate_baselines()
    with threadpool_limits(2):
        assert task.evaluate_baselines() == expected
