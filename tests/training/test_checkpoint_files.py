"""Checkpoints are restored exactly or not at all, and errors name the cause."""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import resource
import shutil
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gru_jax
from gru_jax import training
from gru_jax.training._orbax import IS_OLD
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.progress import Progress
from tests.golden import make_checkpoint
from tests.training import regression_problem as problem

GOLDEN = Path(make_checkpoint.__file__).parent

PROGRESS = {
    step: Progress(step=step, best_step=1, best_metrics={"loss": 0.1 + 0.2}, seconds=1.5)
    for step in (1, 2)
}


def save(directory, *states, max_to_keep=3):
    with CheckpointStore(training.CheckpointOptions(directory, max_to_keep=max_to_keep)) as store:
        for step, state in enumerate(states, start=1):
            store.save(state, Progress(step=step))


def restore(directory, like):
    with CheckpointStore(training.CheckpointOptions(directory)) as store:
        return store.restore_latest(like)


def state_of(params):
    return training.TrainState.create(params, training.make_optimizer())


def linear(key):
    return nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(key)), nnx.Param)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NegatedGRU(gru_jax.GRUParams):
    """Another function of the same arrays."""

    def combine(self, state, projected, affine):
        return -super().combine(state, projected, affine)


@pytest.mark.parametrize(
    "make_params",
    [
        lambda key: gru_jax.init(key, 3, 4, learned_h0=True),
        lambda key: gru_jax.init(key, 3, 4, dtype=jnp.bfloat16, bias=False),
        lambda key: gru_jax.init_stack(key, 3, 4, num_layers=2, bidirectional=True),
        linear,
        lambda key: [{"a/b.c": jax.random.normal(key, ()), "d": (jnp.zeros((0, 3)), None)}],
    ],
    ids=["gru", "bfloat16", "stack", "nnx", "odd"],
)
def test_any_tree_is_restored_exactly(tmp_path, make_params):
    state = state_of(make_params(jax.random.key(1)))
    save(tmp_path, state)
    restored, progress = restore(tmp_path, state_of(make_params(jax.random.key(2))))
    problem.assert_same(restored, state)
    assert progress == Progress(step=1)


def test_a_computer_that_sleeps_during_a_save_completes_it(tmp_path, monkeypatch):
    # To a program that was suspended, the clock jumps. Orbax reads it for its time limit.
    clock = itertools.count(time.time(), step=3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    state = state_of({"a": jnp.ones(2)})
    save(tmp_path, state)
    problem.assert_same(restore(tmp_path, state)[0], state)


def test_random_keys_integers_and_flags_are_restored(tmp_path):
    def make(seed):
        opt_state = {
            "key": jax.random.key(seed, impl="rbg"),
            "keys": jax.random.split(jax.random.key(seed), 3),
            "flags": jnp.array([seed == 0, True]),
            "count": jnp.array(seed, jnp.uint8),
        }
        return training.TrainState(jnp.array(seed), {"a": jnp.ones(2)}, opt_state)

    save(tmp_path, make(5))
    restored, _ = restore(tmp_path, make(0))
    problem.assert_same(restored, make(5))


def test_sharding_of_the_state_at_hand_is_kept(tmp_path):
    mesh = Mesh(jax.devices(), ("model",))
    sharding = NamedSharding(mesh, PartitionSpec("model"))
    state = training.TrainState(jnp.array(3), jnp.arange(8.0), ())
    save(tmp_path, state)
    like = training.TrainState(jnp.array(0), jax.device_put(jnp.zeros(8), sharding), ())
    restored, _ = restore(tmp_path, like)
    problem.assert_same(restored, state)
    assert restored.params.sharding == sharding


def test_saved_state_may_be_donated_at_once(tmp_path):
    """The save continues in the background while the next step reuses the arrays' buffers."""
    states = [problem.make_state(seed, hidden=2000) for seed in (1, 2)]
    copy = problem.make_state(1, hidden=2000)
    with CheckpointStore(training.CheckpointOptions(tmp_path)) as store:
        store.save(states[0], Progress(step=1))
        problem.make_train_step()(states[0], problem.batch_at(0))
    restored, _ = restore(tmp_path, states[1])
    problem.assert_same(restored, copy)


@pytest.mark.parametrize("best_step", [None, 1, 3, 6])
def test_the_latest_and_the_best_are_kept(tmp_path, best_step):
    with CheckpointStore(training.CheckpointOptions(tmp_path, max_to_keep=2)) as store:
        for step in range(1, 7):
            best_so_far = best_step if best_step is not None and best_step <= step else None
            store.save(problem.make_state(), Progress(step=step, best_step=best_so_far))
    steps = sorted(int(path.name) for path in tmp_path.iterdir())
    # A checkpoint that was deleted before it became the best stays deleted.
    assert steps == sorted({5, 6} | ({best_step} if best_step else set()))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    with CheckpointStore(training.CheckpointOptions(directory)) as store:
        for step in (1, 2):
            store.save(problem.make_state(step), PROGRESS[step])
    return directory


KINDS_OF_FILES = [
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    "digests.json",
    "record/data.json",
    "record/commit_success.txt",
    "arrays/_METADATA",
    "arrays/array_metadatas/*",
    "arrays/commit_success.txt",
    "arrays/manifest.ocdbt",
    "arrays/d/*",
    "arrays/ocdbt.process_0/manifest.ocdbt",
    "arrays/ocdbt.process_0/d/*",
]


def test_all_kinds_of_files_are_known(two_checkpoints):
    checkpoint = two_checkpoints / "2"
    known = {path for kind in KINDS_OF_FILES for path in checkpoint.glob(kind)}
    found = {path for path in checkpoint.rglob("*") if path.is_file()}
    # Only some versions of Orbax write the sharding, which is not used here.
    assert found - known <= {checkpoint / "arrays" / "_sharding"}


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("corrupt", [truncate, empty, flip, lambda path: path.unlink()])
@pytest.mark.parametrize("kind", KINDS_OF_FILES)
def test_a_corrupted_checkpoint_is_detected_or_harmless(
    tmp_path, two_checkpoints, caplog, capfd, kind, corrupt
):
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    paths = list((directory / "2").glob(kind))
    if not paths and kind.endswith("/commit_success.txt"):
        pytest.skip("not every version of Orbax writes such a file")
    for path in paths:
        corrupt(path)
    before = {path.name for path in (directory / "2").rglob("*")}

    restored, progress = restore(directory, problem.make_state(0))
    assert capfd.readouterr() == ("", "")
    assert progress == PROGRESS[progress.step]
    problem.assert_same(restored, problem.make_state(progress.step))
    harmless = kind in ("_CHECKPOINT_METADATA", "commit_success.txt")
    if IS_OLD and kind == "_CHECKPOINT_METADATA":
        # It reads this file. What is still JSON may do no harm.
        harmless = progress.step == 2
        assert harmless is (corrupt is flip)
    assert progress.step == (2 if harmless else 1)
    if not harmless:
        (quarantined,) = (directory / "corrupted").iterdir()
        assert {path.name for path in quarantined.rglob("*")} == before
        (record,) = (each for each in caplog.records if not (IS_OLD and each.name == "absl"))
        assert record.name == "gru_jax.training"
        assert record.levelno == logging.WARNING
        assert str(directory / "2") in record.getMessage()
        assert str(quarantined) in record.getMessage()
        assert sorted(path.name for path in directory.iterdir()) == ["1", "corrupted"]


UNBOUNDED = {
    "a link": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "an unknown file": lambda path: path.write_bytes(b"1"),
}


@pytest.mark.parametrize("make", UNBOUNDED.values(), ids=UNBOUNDED)
def test_a_checkpoint_with_more_than_was_saved_is_corrupted(tmp_path, two_checkpoints, make):
    """Reading it might never end."""
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    make(directory / "2" / "arrays" / "more")
    assert restore(directory, problem.make_state(0))[1] == PROGRESS[1]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("x" * (3 << 20), "more than the limit of 2097152"),
        ("null", "describes no run"),
        ('{"progress": {}}', "describes no run"),
        ('{"progress": {"x": 1}, "description": {}}', "describes no run"),
        ("[" * 100_000, "cannot be read"),
    ],
    ids=["large", "null", "no description", "unknown progress", "deep"],
)
def test_a_record_with_a_digest_to_match_is_one_error(tmp_path, two_checkpoints, record, words):
    """The digests find corruption, not intent."""
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    path, digests = (directory / "2" / name for name in ("record/data.json", "digests.json"))
    path.write_text(record)
    known = json.loads(digests.read_text())
    known["record/data.json"] = hashlib.sha256(record.encode()).hexdigest()
    digests.write_text(json.dumps(known))
    options = training.CheckpointOptions(directory)
    with (
        CheckpointStore(options, read_only=True) as store,
        pytest.raises(training.CheckpointError, match=words),
    ):
        store.restore(2, problem.make_state(0))


def test_all_checkpoints_corrupted(tmp_path, two_checkpoints):
    directory = tmp_path / "copy"
    shutil.copytree(two_checkpoints, directory)
    for step in ("1", "2"):
        truncate(directory / step / "record" / "data.json")
    assert restore(directory, problem.make_state()) is None
    assert len(list((directory / "corrupted").iterdir())) == 2


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        (
            lambda: gru_jax.init(jax.random.key(0), 3, 4),
            lambda: gru_jax.init(jax.random.key(0), 3, 5),
            ["leaf .params.w_x:", "(3, 12)", "there", "(3, 15)", "here"],
        ),
        (
            lambda: gru_jax.init(jax.random.key(0), 3, 4),
            lambda: gru_jax.init(jax.random.key(0), 3, 4, dtype=jnp.bfloat16),
            ["leaf .params.w_x:", "float32 there", "bfloat16 here"],
        ),
        (
            lambda: gru_jax.init(jax.random.key(0), 3, 4),
            lambda: gru_jax.init(jax.random.key(0), 3, 4, learned_h0=True),
            ["leaf .params.h0:", "absent there", "(4,)"],
        ),
        (
            lambda: {"a": jnp.ones(1), "b": jnp.ones(2)},
            lambda: {"a": jnp.ones(1)},
            ["leaf .params['b']:", "(2,)", "absent here"],
        ),
        (
            lambda: gru_jax.init(jax.random.key(0), 3, 4, bias=False, reset="after"),
            lambda: gru_jax.init(jax.random.key(0), 3, 4, bias=False, reset="before"),
            ["static field .params.reset:", "'after' there", "'before' here"],
        ),
        (
            lambda: gru_jax.init(jax.random.key(0), 3, 4),
            lambda: NegatedGRU(**vars(gru_jax.init(jax.random.key(0), 3, 4))),
            ["cell .params:", "GRUParams there", "NegatedGRU here"],
        ),
    ],
    ids=["shape", "dtype", "more", "fewer", "static", "class"],
)
def test_checkpoint_of_another_model_raises_and_is_left_alone(tmp_path, there, here, words):
    save(tmp_path, state_of(there()))
    with pytest.raises(training.CheckpointMismatchError) as caught:
        restore(tmp_path, state_of(here()))
    message = str(caught.value)
    assert all(word in message for word in [*words, str(tmp_path / "1"), "another model"])
    assert restore(tmp_path, state_of(there())) is not None


def test_checkpoint_of_another_optimizer_raises(tmp_path):
    params = problem.make_params()
    save(tmp_path, training.TrainState.create(params, optax.adam(0.1)))
    with pytest.raises(training.CheckpointMismatchError, match=r"\.opt_state"):
        restore(tmp_path, training.TrainState.create(params, optax.sgd(0.1, momentum=0.9)))


def test_unusable_directory_is_named(tmp_path):
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / "checkpoints"
    with pytest.raises(training.CheckpointError, match="Not a directory") as caught:
        CheckpointStore(training.CheckpointOptions(directory))
    assert str(directory) in str(caught.value)


def test_a_full_disk_raises_and_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, capfd):
    save(tmp_path, problem.make_state(1))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    with CheckpointStore(training.CheckpointOptions(tmp_path)) as store:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(training.CheckpointError) as caught:
            store.save(problem.make_state(2), PROGRESS[2])
    message = str(caught.value)
    assert all(word in message for word in ["step 2", "has 10 left", str(tmp_path / "1")])
    assert capfd.readouterr() == ("", "")
    problem.assert_same(restore(tmp_path, problem.make_state())[0], problem.make_state(1))


# When one of TensorStore's writes fails, others are still pending once the event loop is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_that_fails_in_the_background_raises(tmp_path):
    """No file may grow beyond 200 bytes: a write fails during the save."""
    save(tmp_path, problem.make_state(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with (
            pytest.raises(training.CheckpointError) as caught,
            CheckpointStore(training.CheckpointOptions(tmp_path)) as store,
        ):
            store.save(problem.make_state(2), PROGRESS[2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = str(caught.value)
    assert all(word in message for word in ["step 2", "File too large", str(tmp_path / "1")])
    assert "\n" not in message
    problem.assert_same(restore(tmp_path, problem.make_state())[0], problem.make_state(1))
    with CheckpointStore(training.CheckpointOptions(tmp_path)) as store:
        store.save(problem.make_state(2), PROGRESS[2])
    problem.assert_same(restore(tmp_path, problem.make_state())[0], problem.make_state(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_what_a_killed_save_left_is_removed(tmp_path):
    with CheckpointStore(training.CheckpointOptions(tmp_path)) as store:
        store.save(problem.make_state(1), PROGRESS[1])
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    with CheckpointStore(training.CheckpointOptions(tmp_path)) as store:
        problem.assert_same(store.restore_latest(problem.make_state())[0], problem.make_state(1))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_checkpoint_written_by_the_v0_api_is_read(tmp_path):
    with zipfile.ZipFile(GOLDEN / "orbax_v0_checkpoint.zip") as archive:
        archive.extractall(tmp_path)
    restored, progress = restore(tmp_path, problem.make_state(0, hidden=2))
    problem.assert_same(restored, make_checkpoint.make_state())
    assert progress == make_checkpoint.PROGRESS


def test_record_is_plain_json(two_checkpoints):
    record = json.loads((two_checkpoints / "2" / "record" / "data.json").read_text())
    assert record["progress"]["step"] == 2
    assert record["progress"]["best_metrics"] == PROGRESS[2].best_metrics


@pytest.mark.parametrize(("max_to_keep", "error"), [(0, ValueError), (1.5, TypeError)])
def test_wrong_max_to_keep_is_named(tmp_path, max_to_keep, error):
    with pytest.raises(error, match="max_to_keep"):
        training.CheckpointOptions(tmp_path, max_to_keep=max_to_keep)


def test_a_store_is_made_of_options(tmp_path):
    with pytest.raises(TypeError, match=r"options must be a .*CheckpointOptions, got PosixPath"):
        CheckpointStore(tmp_path)
