"""`report` reads regular files of bounded size below its folder, and lists what it leaves out."""

import os
import shutil
import stat
import time
from pathlib import Path

import pytest
import yaml

from experiments.cli import main
from experiments.report import collect, page
from tests.experiments.conftest import TINY

SECRET = "the contents of a private file"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump({"task": "adding", "length": 5, "held_out": 16, **TINY}))
    assert main(["train", str(config), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(trained, workplace, monkeypatch):
    """A copy of it in `runs`."""
    monkeypatch.setattr(page, "plot_curves", lambda runs: [])
    return shutil.copytree(trained, workplace / "runs" / "a")


def report(capfd, *arguments):
    """Returns the page and the messages."""
    begun = time.monotonic()
    assert main(["report", "runs", "--output", "page.html", *arguments]) == 0
    assert time.monotonic() - begun < 60
    text = Path("page.html").read_text()
    messages = capfd.readouterr().err.splitlines()
    for message in messages:
        assert message in text
    return text, messages


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_link_to_a_device(run, capfd, device):
    (run / "plots" / "zero.png").symlink_to(device)
    text, messages = report(capfd)
    assert messages == ["runs/a/plots/zero.png is left out: it is a link out of runs."]
    assert "1 finished" in text


@pytest.mark.parametrize(
    "name",
    [
        "plots/a.txt",
        "plots/a.png",
        "config.yaml",
        "summary.json",
        "meta.json",
        "metrics.jsonl",
        "../compare.json",
        "../note.md",
    ],
)
@pytest.mark.parametrize("kind", ["absolute", "relative", "broken"])
def test_a_link_out_of_the_folder(run, workplace, capfd, name, kind):
    secret = workplace / "secret"
    if kind != "broken":
        secret.write_text(SECRET)
    if name == "../note.md":
        (run / "../compare.json").write_text("{}")
    (run / name).unlink(missing_ok=True)
    target = os.path.relpath(secret, (run / name).parent) if kind == "relative" else secret
    (run / name).symlink_to(target)
    text, messages = report(capfd)
    assert SECRET not in text
    left_out = os.path.normpath(Path("runs", "a", name))
    assert f"{left_out} is left out: it is a link out of runs." in messages


def test_a_link_within_the_folder_is_read(run, capfd):
    (run / "plots" / "first.txt").write_text("the first text")
    (run / "plots" / "second.txt").symlink_to("first.txt")
    text, messages = report(capfd)
    assert text.count("the first text") == 2
    assert messages == []


def test_a_linked_directory(run, workplace, capfd):
    (workplace / "others").mkdir()
    (workplace / "others" / "config.yaml").write_text(f"task: {SECRET}")
    (workplace / "runs" / "linked").symlink_to(workplace / "others")
    (workplace / "others" / "plots").mkdir()
    (workplace / "others" / "plots" / "a.txt").write_text(SECRET)
    for path in (run / "plots").iterdir():
        path.unlink()
    (run / "plots").rmdir()
    (run / "plots").symlink_to(workplace / "others" / "plots")
    text, messages = report(capfd)
    assert SECRET not in text
    assert messages == [
        "runs/linked is left out: it is a link to a directory.",
        "runs/a/plots/a.txt is left out: it is a link out of runs.",
    ]


def test_a_link_to_itself(run, capfd):
    (run / "plots" / "loop.png").symlink_to("loop.png")
    _, messages = report(capfd)
    assert messages == ["runs/a/plots/loop.png is left out: it is a broken link."]


def test_files_that_are_not_regular(run, capfd):
    os.mkfifo(run / "plots" / "pipe.png")
    (run / "plots" / "folder.txt").mkdir()
    _, messages = report(capfd)
    assert sorted(messages) == [
        "runs/a/plots/folder.txt is left out: it is not a regular file.",
        "runs/a/plots/pipe.png is left out: it is not a regular file.",
    ]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("plots/large.png", collect.LARGEST_PLOT),
        ("plots/large.txt", collect.LARGEST_TEXT),
        ("config.yaml", collect.LARGEST_TEXT),
        ("summary.json", collect.LARGEST_TEXT),
        ("meta.json", collect.LARGEST_TEXT),
        ("metrics.jsonl", collect.LARGEST_METRICS),
    ],
)
def test_a_large_file(run, capfd, name, limit):
    with open(run / name, "ab") as file:
        # Sparse, so that it needs no space.
        file.truncate(limit + 1)
    _, messages = report(capfd)
    assert messages == [f"runs/a/{name} is left out: it is larger than {limit / 2**20:g} MiB."]


def state(folder):
    return {
        path: (path.stat().st_mtime_ns, stat.S_ISDIR(path.stat().st_mode) or path.read_bytes())
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize(
    "command",
    [
        ["report", "runs", "--output", "page.html"],
        ["export", "runs/a", "--to", "safetensors", "--output", "out"],
        ["train", "runs/a/config.yaml", "--run-dir", "runs/a"],
    ],
)
def test_reading_a_finished_run_writes_nothing_there(run, workplace, command, caplog):
    """As from a file system that is mounted read-only."""
    before = state(workplace / "runs")
    assert main(command) == 0
    assert state(workplace / "runs") == before
    assert caplog.records == []


def test_a_corrupted_checkpoint_is_left_where_it_is(run, workplace, user_error):
    for path in (run / "checkpoints").rglob("manifest.ocdbt"):
        path.write_bytes(b"")
    before = state(workplace / "runs")
    message = user_error("export", "runs/a", "--to", "safetensors", "--output", "out")
    assert "is corrupted (its file " in message
    assert state(workplace / "runs") == before
