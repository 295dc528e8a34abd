"""A small regression problem, and a program that trains on it and can be killed."""

import argparse
import functools
import logging
import os
import signal
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np

import tests.conftest  # noqa: F401  # the program uses the settings of the tests
from gru_jax import training
from gru_jax.training import checkpoint_files

FEATURES, TARGETS, EXAMPLES, BATCH_SIZE = 5, 3, 37, 8
STEPS, EVAL_EVERY, LOG_EVERY = 60, 7, 4


def make_params(seed=0, hidden=7):
    keys = jax.random.split(jax.random.key(seed), 2)
    return {
        "hidden": {"w": 0.3 * jax.random.normal(keys[0], (FEATURES, hidden))},
        "out": {
            "w": 0.3 * jax.random.normal(keys[1], (hidden, TARGETS)),
            "b": jnp.zeros((TARGETS,)),
        },
    }


@functools.cache
def make_data():
    random = np.random.default_rng(1)
    inputs = random.normal(size=(EXAMPLES, FEATURES)).astype(np.float32)
    return inputs, np.sin(inputs @ random.normal(size=(FEATURES, TARGETS))).astype(np.float32)


def predict(params, inputs):
    return jnp.tanh(inputs @ params["hidden"]["w"]) @ params["out"]["w"] + params["out"]["b"][None]


def loss_fn(params, batch, key):
    """Mean squared error, with noise on the inputs, so that the random key matters."""
    inputs, targets = batch
    error = predict(params, inputs + 0.1 * jax.random.normal(key, inputs.shape)) - targets
    return jnp.mean(jnp.square(error)), {"absolute": jnp.mean(jnp.abs(error))}


@functools.cache
def make_optimizer():
    return training.make_optimizer(
        0.05, schedule="cosine", steps=STEPS, warmup_steps=5, max_grad_norm=1.0, accumulate_steps=2
    )


@functools.cache
def make_train_step():
    return training.make_train_step(loss_fn, make_optimizer(), seed=4)


def make_state(seed=0, hidden=7):
    return training.TrainState.create(make_params(seed, hidden), make_optimizer())


def batch_at(step):
    inputs, targets = make_data()
    indices = training.ShuffledIndices(3, EXAMPLES, BATCH_SIZE)(step)
    return inputs[indices], targets[indices]


def grain_dataset():
    """The same batches from a dataset of Grain, which draws the order of each epoch itself."""
    import grain

    examples = grain.MapDataset.source(list(zip(*make_data(), strict=True)))
    return examples.seed(3).shuffle().repeat().batch(BATCH_SIZE)


@jax.jit
def _errors(params):
    inputs, targets = make_data()
    error = predict(params, inputs) - targets
    return {"loss": jnp.mean(jnp.square(error)), "worst": jnp.max(jnp.abs(error))}


def evaluate(params):
    """The worst error goes up and down, so a run has several best evaluations."""
    return {name: float(value) for name, value in _errors(params).items()}


def fit(directory=None, *, max_to_keep=2, **options):
    """Trains; of ``eval_every`` and ``log_every`` neither is a multiple of the other."""
    settings = {
        "state": make_state(),
        "train_step": make_train_step(),
        "batch_at": batch_at,
        "steps": STEPS,
        "evaluate": evaluate,
        "monitor": "worst",
        "eval_every": EVAL_EVERY,
        "log_every": LOG_EVERY,
    }
    if directory is not None:
        settings["checkpoints"] = training.CheckpointOptions(
            Path(directory) / "checkpoints", max_to_keep=max_to_keep
        )
        settings["metrics"] = training.JsonlWriter(Path(directory) / "metrics.jsonl")
    return training.fit(**{**settings, **options})


def assert_same(one, other):
    """Asserts that the trees have the same structure, dtypes and values, bit for bit."""
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)
    leaves = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def assert_same_run(directory, result, expected_directory, expected):
    """Asserts that two runs gave the same states, best evaluations and rows of metrics."""
    assert_same(result.state, expected.state)
    assert_same(result.best_params, expected.best_params)
    assert result.best_step == expected.best_step
    assert result.best_metrics == expected.best_metrics
    assert result.status == expected.status
    assert rows_without_times(directory) == rows_without_times(expected_directory)


def rows_without_times(directory):
    return [
        {name: row[name] for name in row if name not in ("seconds", "steps_per_second")}
        for row in training.read_metrics(Path(directory) / "metrics.jsonl")
    ]


def steps_on_disk(directory):
    names = (path.name for path in (Path(directory) / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdigit())


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to wait for a batch")
    parser.add_argument("--kill-at-batch", type=int)
    parser.add_argument("--grain", action="store_true", help="batches from Grain, read ahead")
    parser.add_argument("--kill-in-save", type=int, help="of this step, before it is complete")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    read = grain_dataset().__getitem__ if arguments.grain else batch_at

    def watched_batch_at(step):
        print(step, flush=True)
        if step == arguments.kill_at_batch:
            kill()
        time.sleep(arguments.delay)
        return read(step)

    write_digests = checkpoint_files.write_digests

    def watched_write_digests(path):
        if path.name.startswith(f"{arguments.kill_in_save}."):
            kill()
        write_digests(path)

    checkpoint_files.write_digests = watched_write_digests
    # With max_to_keep=1, an incomplete save must not cost the checkpoint before it.
    options = {"prefetch": 2} if arguments.grain else {}
    result = fit(arguments.directory, max_to_keep=1, batch_at=watched_batch_at, **options)
    print(result.status, flush=True)


if __name__ == "__main__":
    main()
