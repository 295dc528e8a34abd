"""Checkpoints in a bucket of Google Cloud Storage, of which an emulator runs here."""

import itertools
import logging
import signal

import pytest

from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore
from tests.training import parallel_problem
from tests.training import regression_problem as problem

DIRECTORIES = (f"gs://bucket/{number}" for number in itertools.count())


@pytest.fixture
def bucket(emulator):
    return next(DIRECTORIES)


def fit(directory, bucket, **options):
    checkpoints = training.CheckpointOptions(bucket, max_to_keep=2)
    return problem.fit(directory, checkpoints=checkpoints, **options)


def test_a_run_resumes_from_a_bucket(bucket, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = problem.fit(whole)
    answers = iter([None] * 25 + [signal.SIGTERM] * 2)
    assert fit(stopped, bucket, stop=answers.__next__).status == "interrupted"
    result = fit(stopped, bucket, resume="must")
    problem.assert_same_run(stopped, result, whole, expected)
    with CheckpointStore(training.CheckpointOptions(bucket), read_only=True) as store:
        assert sorted(store._steps()) == problem.steps_on_disk(whole)
        state, _ = store.restore_latest(problem.make_state())
    problem.assert_same(state, expected.state)


def test_a_corrupted_checkpoint_is_moved_away(bucket, tmp_path, caplog):
    from etils import epath

    answers = iter([None] * 25 + [signal.SIGTERM] * 2)
    fit(tmp_path, bucket, stop=answers.__next__)
    folder = epath.Path(bucket) / "25" / "arrays" / "d"
    file = next(iter(folder.iterdir()))
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, bucket)
    assert f"The checkpoint {bucket}/25 is corrupted (its file arrays/d/" in caplog.text
    (moved,) = (epath.Path(bucket) / "corrupted").iterdir()
    fit(tmp_path, bucket)
    assert list(moved.iterdir())


def test_a_save_that_was_cut_off_is_none(bucket, tmp_path, caplog):
    """A process killed while it saves leaves a directory without the file that commits it."""
    from etils import epath

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    answers = iter([None] * 25 + [signal.SIGTERM] * 2)
    fit(killed, bucket, stop=answers.__next__)
    (epath.Path(bucket) / "25" / "commit_success.txt").unlink()
    with CheckpointStore(training.CheckpointOptions(bucket), read_only=True) as store:
        assert store.latest().name == "21"
        assert (epath.Path(bucket) / "25").exists()
    CheckpointStore(training.CheckpointOptions(bucket))
    assert not (epath.Path(bucket) / "25").exists()
    problem.assert_same_run(killed, fit(killed, bucket), whole, problem.fit(whole))
    assert "corrupted" not in caplog.text


def test_a_numbered_directory_of_something_else_is_kept(bucket, tmp_path):
    """As versions of a served model are numbered."""
    from etils import epath

    fit(tmp_path, bucket, steps=8)
    file = epath.Path(bucket) / "3" / "saved_model.pb"
    file.parent.mkdir(parents=True)
    file.write_text("kept")
    with pytest.raises(training.CheckpointError, match="its directory 3 holds no checkpoint"):
        CheckpointStore(training.CheckpointOptions(bucket))
    assert file.read_text() == "kept"
    with CheckpointStore(training.CheckpointOptions(bucket), read_only=True) as store:
        assert store.latest().name == "8"


def test_other_directories_of_the_bucket_are_kept(bucket, tmp_path):
    from etils import epath

    file = epath.Path(bucket) / "notes" / "today.txt"
    file.parent.mkdir(parents=True)
    file.write_text("kept")
    for steps in (8, 16):
        fit(tmp_path, bucket, steps=steps)
    assert file.read_text() == "kept"


def test_sharded_parameters(bucket, tmp_path):
    import jax

    mesh = parallel_problem.make_mesh(jax.devices()[:2])
    options = {"checkpoints": training.CheckpointOptions(bucket), "steps": 24}
    result = parallel_problem.fit(tmp_path / "two", mesh, sharded=True, **options)
    again = parallel_problem.fit(tmp_path / "one", **options, resume="must")
    problem.assert_same(jax.device_get(again.state), jax.device_get(result.state))


def test_a_bucket_that_is_absent(emulator):
    with pytest.raises(training.CheckpointError, match="gs://nowhere/run cannot be used"):
        CheckpointStore(training.CheckpointOptions("gs://nowhere/run"), read_only=True)


def test_other_urls_are_rejected():
    with pytest.raises(ValueError, match=r"a path or a URL of gs://, got s3://bucket/run"):
        training.CheckpointOptions("s3://bucket/run")


def test_what_is_missing_is_named(assume_packages):
    assume_packages("gcsfs", installed=False)
    with pytest.raises(training.CheckpointError, match=r"needs gcsfs, .* 'gru-jax\[gcs\]'"):
        CheckpointStore(training.CheckpointOptions("gs://bucket/run"))
