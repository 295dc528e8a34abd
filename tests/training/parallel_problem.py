"""A small GRU regression on a mesh, and a program that trains it as one of several processes."""

import argparse
import dataclasses
import functools
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gru_jax
import tests.conftest  # noqa: F401  # the program uses the settings of the tests
from gru_jax import training

TIME, BATCH_SIZE, FEATURES, HIDDEN, EXAMPLES = 6, 8, 3, 4, 21
STEPS, EVAL_EVERY, LOG_EVERY = 40, 12, 5
HEARTBEAT_TIMEOUT = 10


@functools.cache
def make_data():
    random = np.random.default_rng(5)
    xs = random.normal(size=(EXAMPLES, TIME, FEATURES)).astype(np.float32)
    lengths = random.integers(1, TIME + 1, EXAMPLES).astype(np.int32)
    return xs, lengths


def loss_fn(params, batch, key):
    xs = batch["xs"] + 0.1 * jax.random.normal(key, batch["xs"].shape)
    h, _ = gru_jax.unroll(params, xs, lengths=batch["lengths"])
    error = h[:, 0] - batch["xs"][0].sum(axis=-1)
    return jnp.mean(jnp.square(error)), {"absolute": jnp.mean(jnp.abs(error))}


@functools.cache
def make_optimizer():
    return training.make_optimizer(0.02, max_grad_norm=1.0)


@functools.cache
def make_train_step():
    return training.make_train_step(loss_fn, make_optimizer(), seed=4)


def make_batch(indices):
    xs, lengths = make_data()
    return {"xs": xs[indices].swapaxes(0, 1), "lengths": lengths[indices]}


def batch_at(step, rows=slice(None)):
    return make_batch(training.ShuffledIndices(3, EXAMPLES, BATCH_SIZE)(step)[rows])


def grain_dataset(rows):
    """The same batches, or some of their rows, from a dataset of Grain, in an order of its own."""
    import grain

    xs, lengths = make_data()
    examples = grain.MapDataset.source(range(EXAMPLES)).seed(3).shuffle().repeat()
    size = rows.stop - rows.start
    examples = examples.map(lambda index: {"xs": xs[index], "lengths": lengths[index]})
    batches = examples.batch(size)[rows.start // size :: BATCH_SIZE // size]
    return batches.map(lambda batch: {**batch, "xs": batch["xs"].swapaxes(0, 1)})


@jax.jit
def _metrics(params):
    return loss_fn(params, make_batch(np.arange(EXAMPLES)), jax.random.key(0))[0]


def make_mesh(devices):
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def data_parallel(mesh):
    return training.DataParallel(mesh, batch_axes={"xs": 1, "lengths": 0})


def make_state(mesh=None, *, sharded=False):
    """The initial state; with ``sharded``, the gates of ``w_h`` are divided among the devices."""
    params = gru_jax.init(jax.random.key(1), FEATURES, HIDDEN, learned_h0=True)
    if sharded:
        by_columns = NamedSharding(mesh, PartitionSpec(None, "data"))
        params = dataclasses.replace(params, w_h=jax.device_put(params.w_h, by_columns))
    state = training.TrainState.create(params, make_optimizer())
    return state if mesh is None else data_parallel(mesh).place_state(state)


def fit(directory, mesh=None, *, sharded=False, batch_at=batch_at, process_local=False, **options):
    if mesh is not None:
        batch_at = data_parallel(mesh).batches(batch_at, process_local=process_local)
    settings = {
        "steps": STEPS,
        "evaluate": lambda params: {"loss": _metrics(params)},
        "eval_every": EVAL_EVERY,
        "log_every": LOG_EVERY,
        "checkpoints": training.CheckpointOptions(Path(directory) / "checkpoints"),
        "metrics": training.JsonlWriter(Path(directory) / "metrics.jsonl"),
    }
    state = make_state(mesh, sharded=sharded)
    return training.fit(state, make_train_step(), batch_at, **{**settings, **options})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--devices", type=int, default=2, help="of this process")
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    parser.add_argument("--terminate-at", type=int, help="SIGTERM to this process at this batch")
    parser.add_argument("--kill-at", type=int, help="SIGKILL to this process at this batch")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to wait for a batch")
    parser.add_argument("--grain", action="store_true", help="batches from Grain, read ahead")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)
    if arguments.coordinator:
        jax.distributed.initialize(
            arguments.coordinator,
            arguments.num_processes,
            arguments.process,
            cluster_detection_method="deactivate",
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        )
    mesh = make_mesh(jax.devices())
    rows = data_parallel(mesh).local_rows(BATCH_SIZE)
    dataset = grain_dataset(rows) if arguments.grain else None

    def local_batch_at(step):
        if step == arguments.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if step == arguments.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(arguments.delay)
        return batch_at(step, rows) if dataset is None else dataset[step]

    result = fit(
        arguments.directory,
        mesh,
        sharded=True,
        batch_at=local_batch_at,
        process_local=True,
        prefetch=2 if arguments.grain else 0,
    )
    print(result.status, int(result.state.step), f"rows {rows.start} to {rows.stop}", flush=True)


if __name__ == "__main__":
    main()
