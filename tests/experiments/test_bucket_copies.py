"""Copies of what is in a bucket, and their upload: objects in memory, and wrong URLs."""

import json
import tempfile
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.errors import UserError
from experiments.runs import bucket
from experiments.runs.lock import HeldError


class Files:
    """Objects in memory, with the methods of a client that are used, and a log of changes."""

    def __init__(self, objects):
        self.objects = {f"bucket/run/{name}": content for name, content in objects.items()}
        self.changes = []

    def find(self, prefix, detail):
        return {name: {"size": len(content)} for name, content in self.objects.items()}

    def cat_file(self, name, start=None, end=None):
        if name not in self.objects:
            raise FileNotFoundError(name)
        return self.objects[name][start:end]

    def pipe_file(self, name, content, mode="overwrite"):
        if mode == "create" and name in self.objects:
            raise FileExistsError(name)
        self.changes.append(name.removeprefix("bucket/run/"))
        self.objects[name] = content

    def rm_file(self, name):
        self.changes.append(f"removed {name.removeprefix('bucket/run/')}")
        del self.objects[name]


@pytest.fixture
def files(monkeypatch):
    """Makes a bucket in memory."""

    def make(**objects):
        made = Files({name.replace("__", "/"): content for name, content in objects.items()})
        monkeypatch.setattr(bucket, "_client", lambda: made)
        return made

    return make


def test_of_two_processes_one_makes_the_lock(files):
    """Also where the other one makes it after this one has looked."""
    made = files()
    other = json.dumps(
        {"pid": 7, "host": "elsewhere", "since": "2024-05-06T07:08:09+00:00"}
    ).encode()

    def none_yet(name, start=None, end=None):
        if name not in made.objects:
            made.objects[name] = other
            raise FileNotFoundError(name)
        return made.objects[name]

    made.cat_file = none_yet
    with pytest.raises(HeldError, match="gs://bucket/run is in use by process 7 on the host"):
        bucket.work_on("gs://bucket/run").__enter__()
    assert list(made.objects.values()) == [other]


def test_only_what_changed_is_uploaded_and_the_summary_last(files):
    content = {"config.yaml": b"a", "metrics.jsonl": b"1\n", "tensorboard__1": b"", ".mine": b""}
    made = files(**content)
    with bucket.work_on("gs://bucket/run") as folder:
        made.changes.clear()
        bucket.upload(folder)
        assert made.changes == []
        for name in ("summary.json", "meta.json", "config.yaml", ".hidden"):
            (folder / name).write_text("new")
        (folder / "metrics.jsonl").write_text("1\n2\n")
        (folder / "tensorboard" / "1").unlink()
        bucket.upload(folder)
        assert made.changes == [
            "config.yaml",
            "meta.json",
            "metrics.jsonl",
            "summary.json",
            "removed tensorboard/1",
        ]
        bucket.upload(folder)
        assert len(made.changes) == 5
        (folder / "meta.json").write_text("last")
    assert made.changes[5:] == ["meta.json", f"removed {bucket.LOCK}"]


def test_what_is_not_needed_is_not_copied(files):
    contents = {"checkpoints__3__x": b"", "wandb__run": b"", "x__profile__y": b"", "plots__a": b""}
    made = files(**contents, folder__=b"")
    with bucket.read_copy(Path("gs://bucket/run")) as folder:
        assert [path for path in folder.rglob("*") if path.is_file()] == [folder / "plots" / "a"]
    with bucket.work_on("gs://bucket/run") as folder:
        copied = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        assert sorted(copied) == ["plots/a", "wandb/run"]
    assert len(made.objects) == 5


@pytest.mark.parametrize(
    "name", ["../x", "x/../../y", "/etc/x", "x//y", "./x", "x\\..\\y", "x/..", "x\0y"]
)
def test_no_name_leads_out_of_the_copy(files, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files(**{name: b"x", "config.yaml": b""})
    for copy in (
        bucket.read_copy(Path("gs://bucket/run")),
        bucket.work_on("gs://bucket/run"),
    ):
        with pytest.raises(
            UserError, match=r"gs://bucket/run/.* cannot be copied: it is no file's"
        ):
            copy.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_what_is_copied_is_bounded(files, monkeypatch):
    files(a=b"123", b=b"45", checkpoints__1=b"6" * 100)
    monkeypatch.setattr(bucket, "LARGEST", 5)
    with bucket.read_copy(Path("gs://bucket/run")) as folder:
        assert (folder / "b").read_bytes() == b"45"
    monkeypatch.setattr(bucket, "LARGEST", 4)
    with pytest.raises(UserError, match="gs://bucket/run holds 2 files of 0 MiB, more than"):
        bucket.read_copy(Path("gs://bucket/run")).__enter__()
    monkeypatch.setattr(bucket, "LARGEST", 5)
    monkeypatch.setattr(bucket, "MOST_FILES", 1)
    with pytest.raises(UserError, match="more than the 1 files"):
        bucket.read_copy(Path("gs://bucket/run")).__enter__()


def test_an_upload_that_fails_ends_the_run(files, adding, write_config, capsys, monkeypatch):
    """As a full disk does: one message, and how to resume."""
    made = files()
    upload = made.pipe_file

    def failing(name, content, mode="overwrite"):
        if mode != "create":
            raise OSError("Forbidden: no writing here\nand more")
        upload(name, content, mode)

    made.pipe_file = failing
    monkeypatch.setattr(bucket, "check_url", lambda text: None)
    # Checkpoints of a bucket are another matter.
    monkeypatch.setattr("experiments.runs.directory.RunDirectory.checkpoints", Path("elsewhere"))
    config = write_config(adding)
    assert main(["train", str(config), "--run-dir", "gs://bucket/run"]) == 1
    message = capsys.readouterr().err
    assert (
        "gs://bucket/run/config.yaml cannot be written: OSError: Forbidden: no writing here.\n"
        "To resume: "
    ) in message
    assert made.objects == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "CONFIG", "--run-dir", "gs://bucket/run"],
        ["train", "CONFIG", "--run_dir=gs://bucket/run"],
        ["compare", "CONFIG", "--from", "gs://bucket/run"],
        ["export", "gs://bucket/run", "--to", "onnx"],
        ["export", "--to", "onnx", "gs://bucket/run"],
        ["predict", "--force", "gs://bucket/run", "new.csv", "-o", "out.csv"],
        ["report", "gs://bucket/run/"],
        ["gradients", "gs://bucket"],
    ],
)
def test_without_the_extra_it_is_named(
    adding, write_config, user_error, assume_packages, arguments
):
    config = write_config(adding)
    assume_packages("gcsfs", installed=False)
    message = user_error(*(str(config) if text == "CONFIG" else text for text in arguments))
    url = next(text for text in arguments if "gs://" in text).removeprefix("--run_dir=")
    assert message.startswith(f"{url} needs gcsfs, which is not installed. ")
    assert "'gru-jax[gcs]'" in message


@pytest.mark.parametrize("url", ["gs://", "gs:///run", "gs://a/../b", "gs://..", "gs://a//b"])
def test_a_url_without_a_place(adding, write_config, user_error, url):
    message = user_error("train", write_config(adding), "--run-dir", url)
    assert message == f"{url} is not the URL of a run, gs://BUCKET/PATH.\n"
