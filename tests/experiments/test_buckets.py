"""Runs in a bucket of Google Cloud Storage, of which an emulator runs here: whole commands."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.cli import main
from experiments.runs import bucket, logs
from tests.experiments.own_data.generators import write_labelled_steps
from tests.experiments.two_processes import ends, start_two
from tests.training.test_trackers import RecordingWriter

REPOSITORY = Path(__file__).parents[2]
URLS = (f"gs://bucket/runs-{number}/run" for number in itertools.count())
OUTPUTS = ("of-bucket", "of-folder")
LOCK = {"pid": 4194305, "host": socket.gethostname(), "since": "2024-05-06T07:08:09+00:00"}


@pytest.fixture
def url(emulator, workplace, monkeypatch, tmp_path_factory):
    """An empty place in the bucket; copies are made in a folder of the test."""
    copies = str(tmp_path_factory.mktemp("copies"))
    monkeypatch.setattr(tempfile, "tempdir", copies)
    monkeypatch.setenv("TMPDIR", copies)
    yield next(URLS)
    assert list(Path(tempfile.tempdir).iterdir()) == []


def names(url):
    """Returns the names of the objects at a URL."""
    prefix = f"{url.removeprefix('gs://')}/"
    return [name.removeprefix(prefix) for name in bucket._client().find(prefix)]


def objects(url):
    """Returns the objects at a URL by their names."""
    return {name: bucket._client().cat_file(f"{url}/{name}") for name in names(url)}


def write(url, content):
    bucket._client().pipe_file(url, content)


def rows(metrics):
    """Returns rows of metrics without their times."""
    times = ("seconds", "steps_per_second")
    return [
        {name: value for name, value in row.items() if name not in times}
        for row in map(json.loads, metrics.splitlines())
    ]


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def start(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_same_run(url, folder):
    """A run in a bucket has the files of one in a folder, the same results and parameters."""
    found = objects(url)
    expected = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    # In a bucket a file of Orbax commits each checkpoint, and nothing is renamed.
    unlike = ("checkpoints", ".")
    assert {name for name in found if not name.startswith(unlike)} == {
        name for name in expected if not name.startswith(unlike)
    }
    assert found["summary.json"] == (folder / "summary.json").read_bytes()
    assert found["config.yaml"] == (folder / "config.yaml").read_bytes()
    assert rows(found["metrics.jsonl"]) == rows((folder / "metrics.jsonl").read_bytes())
    assert bucket.LOCK not in found
    steps = {name.split("/")[1] for name in found if name.startswith("checkpoints/")}
    assert steps == {path.name for path in (folder / "checkpoints").iterdir()}
    for where, out in zip((url, folder), OUTPUTS, strict=True):
        shutil.rmtree(out, ignore_errors=True)
        run("export", where, "--to", "safetensors", "--output", out)
    of_bucket, of_folder = (load_file(f"{out}/model.safetensors") for out in OUTPUTS)
    assert of_bucket.keys() == of_folder.keys()
    for name, array in of_folder.items():
        np.testing.assert_array_equal(of_bucket[name], array, strict=True)


def assert_up_to_date(url):
    """A run that logs every step has the rows up to its latest checkpoint, and is not held."""
    found = objects(url)
    assert bucket.LOCK not in found
    saved = max(int(name.split("/")[1]) for name in found if name.endswith("/digests.json"))
    trained = [row["step"] for row in rows(found["metrics.jsonl"]) if row["split"] == "train"]
    assert trained == list(range(1, saved + 1))


def test_a_run_in_a_bucket_is_that_in_a_folder(adding, write_config, url, capsys):
    config = write_config(adding)
    run("train", config, "--run-dir", "local")
    run("train", config, "--run-dir", url)
    printed = capsys.readouterr().out
    assert f"in {url}\n" in printed
    assert f"{url}/plots/learning_curves.png" in printed
    assert f"report {url.removesuffix('/run')} --output report.html" in printed
    assert_same_run(url, Path("local"))
    meta = json.loads(objects(url)["meta.json"])
    assert meta["command"].endswith(f"--run-dir {url}")
    # A finished run is shown again, and changed by nothing.
    before = objects(url)
    run("train", config, "--run-dir", url, "--resume", "must")
    assert "Reached:" in capsys.readouterr().out
    assert objects(url) == before
    assert main(["train", str(config), "--run-dir", url, "--seed", "5"]) == 2
    assert f"{url} holds another experiment" in capsys.readouterr().err
    assert objects(url) == before


def test_a_killed_run_goes_on_on_another_machine(adding, write_config, url, workplace, capsys):
    adding["training"] = {"steps": 32, "batch_size": 8, "eval_every": 4, "log_every": 3}
    config = write_config(adding)
    run("train", config, "--run-dir", "unbroken")
    for number in (1, 3):
        process = start("train", config, "--run-dir", url, cwd=workplace)
        while process.poll() is None:
            committed = [name for name in names(url) if name.endswith("digests.json")]
            if len(committed) >= number:
                break
        time.sleep(0.5 * random.random())
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        for left in Path(tempfile.gettempdir()).iterdir():
            # What a killed process leaves on its machine is not there on another one.
            left.rename(workplace / f"{number}-{left.name}")
    capsys.readouterr()
    run("train", config, "--run-dir", url)
    message = capsys.readouterr().err
    assert f"Took over the lock of {url} from process {process.pid} on" in message
    assert_same_run(url, Path("unbroken"))
    assert len(json.loads(objects(url)["meta.json"])["earlier_sessions"]) == 2


def test_a_signal_leaves_the_bucket_up_to_date(adding, write_config, url, workplace):
    adding["training"] = {"steps": 10**6, "batch_size": 8, "eval_every": 1000, "log_every": 1}
    config = write_config(adding)
    process = start("train", config, "--run-dir", url, cwd=workplace)
    while process.poll() is None and "config.yaml" not in names(url):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=300)
    assert process.returncode == 143, message
    assert "Traceback" not in message
    assert f"-m experiments train {config} --run-dir {url}" in message
    assert_up_to_date(url)


def test_two_processes_train_one_run(adding, write_config, url):
    """A signal to one of them leaves the bucket up to date, too."""
    adding["training"] |= {"steps": 800, "eval_every": 100, "log_every": 1}
    # Four devices divide 16 of them.
    adding["held_out"] = 19
    config = write_config(adding)
    processes = start_two(config, "--run-dir", url)
    while "config.yaml" not in names(url):
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    first, second = ends(processes)
    assert [first[2], second[2]] == [143, 143], first[1] + second[1]
    assert_up_to_date(url)
    assert [end[2] for end in ends(start_two(config, "--run-dir", url))] == [0, 0]
    run("train", config, "--run-dir", "one")
    found, one = objects(url), json.loads(Path("one/summary.json").read_text())
    for split in ("validation", "test"):
        two = json.loads(found["summary.json"])[split]
        assert two == pytest.approx(one[split], rel=1e-3)
    assert len(rows(found["metrics.jsonl"])) == 808
    assert not Path("gs:").exists()


def test_a_kill_before_any_change_leaves_a_run_that_resumes(
    adding, write_config, url, monkeypatch, capsys
):
    """Each state that the bucket was in is resumed from a copy of it."""
    from gcp_storage_emulator.storage import Storage

    states = []

    def recorded(change):
        def changing(storage, bucket_name, name, *arguments):
            prefix = f"{url.removeprefix('gs://bucket/')}/"
            state = {
                n.removeprefix(prefix): storage.get_file("bucket", n, show_error=False)
                for n in list(storage.objects.get("bucket", ()))
                if n.startswith(prefix)
            }
            if name.startswith(prefix):
                states.append(state)
            return change(storage, bucket_name, name, *arguments)

        return changing

    adding["training"] |= {"steps": 2, "eval_every": 1, "log_every": 1}
    config = write_config(adding)
    with monkeypatch.context() as patch:
        for name in ("create_file", "delete_file"):
            patch.setattr(Storage, name, recorded(getattr(Storage, name)))
        run("train", config, "--run-dir", url)
    expected = objects(url)
    # The lock, config, metrics, metadata, two checkpoints, plots and summary.
    assert len(states) > 20
    # Not seeded: every time the test is run, these are others.
    for number in sorted(random.sample(range(len(states)), 6)):
        for name, content in states[number].items():
            write(f"{url}-{number}/{name}", content)
        run("train", config, "--run-dir", f"{url}-{number}")
        found = objects(f"{url}-{number}")
        assert found["summary.json"] == expected["summary.json"], number
        assert rows(found["metrics.jsonl"]) == rows(expected["metrics.jsonl"]), number
        assert not [name for name in found if "corrupted" in name]
    assert "corrupted" not in capsys.readouterr().err


def test_tensorboard_files_follow(adding, write_config, url, interrupted_at_step):
    """A resumed run writes them again; those of before are gone in the bucket, too."""
    pytest.importorskip("tensorboardX")
    arguments = ["train", str(write_config(adding)), "--run-dir", url, "--tensorboard"]
    with interrupted_at_step(4):
        assert main(arguments) == 130
    first = {name for name in names(url) if name.startswith("tensorboard/")}
    time.sleep(1)
    run(*arguments)
    second = {name for name in names(url) if name.startswith("tensorboard/")}
    assert len(first) == len(second) == 1
    assert first != second


def test_a_tracker_that_is_lost_names_the_bucket(
    adding, write_config, url, monkeypatch, assume_packages, caplog
):
    def lost(*arguments, **options):
        writer = RecordingWriter(*arguments, told=[], **options)
        writer.fails_at = "log"
        return writer

    monkeypatch.setattr(logs, "WRITERS", {"wandb": lost})
    assume_packages("wandb", installed=True)
    run("train", write_config(adding), "--run-dir", url, "--log", "wandb")
    (message,) = (each for each in caplog.messages if "gets no more" in each)
    assert message.endswith(f"All metrics are in {url}/metrics.jsonl.")


def test_other_commands_read_a_bucket_as_a_folder(adding, write_config, url, capsys):
    config = write_config(adding)
    for where in (url, "local"):
        run("train", config, "--run-dir", f"{where}/gru/s0")
    before, written = objects(url), {}
    for command in (["gradients"], ["compare", config, "--cells", "gru", "--seeds", 1, "--from"]):
        for where, out in zip((url, "local"), OUTPUTS, strict=True):
            run(*command, where, "--output", out)
            written[command[0], out] = json.loads(Path(out, f"{command[0]}.json").read_text())
    of_bucket, of_folder = (written["gradients", out] for out in OUTPUTS)
    assert of_bucket["cells"] == of_folder["cells"]
    assert of_bucket["command"].endswith(f"gradients {url}")
    of_bucket, of_folder = (written["compare", out] for out in OUTPUTS)
    assert of_bucket["models"][0]["test"] == of_folder["models"][0]["test"]
    assert main(["gradients", url]) == 2
    assert f"{url} is only read: --output is missing" in capsys.readouterr().err
    assert objects(url) == before


def test_the_page_of_a_bucket_is_that_of_a_folder(make_run, url, no_curves):
    for seed in (1, 2):
        made = make_run(f"bucket/runs/x/s{seed}", seed=seed)
        for path in filter(Path.is_file, made.path.rglob("*")):
            name = path.relative_to(made.path).as_posix()
            write(f"{url}/x/s{seed}/{name}", path.read_bytes())
    # Nothing that the page does not show is copied.
    write(f"{url}/x/s1/checkpoints/4/arrays/d/0", b"x")
    run("report", url, "--output", "of-bucket.html")
    folder = Path("bucket/runs")
    run("report", folder, "--output", "of-bucket.html.too")
    pages = [
        Path(name).read_text().replace(str(where), "FOLDER")
        for name, where in (("of-bucket.html", url), ("of-bucket.html.too", folder))
    ]
    first, second = (
        [line for line in page.replace(".too", "").splitlines() if " UTC" not in line]
        for page in pages
    )
    assert first == second


def test_predictions_of_a_run_in_a_bucket(url, workplace):
    write_labelled_steps(workplace / "steps.npz", 40)
    run("init", "steps.npz", "-o", "steps.yaml")
    for where, out in ((url, "of-bucket.csv"), ("local", "of-folder.csv")):
        run("train", "steps.yaml", "--run-dir", where, "--training.steps", "4")
        run("predict", where, "steps.npz", "-o", out)
    assert Path("of-bucket.csv").read_bytes() == Path("of-folder.csv").read_bytes()


@pytest.mark.parametrize(
    ("holder", "message"),
    [
        ({**LOCK, "host": "elsewhere"}, "process 4194305 on the host elsewhere, since 2024-05-06"),
        ({**LOCK, "pid": os.getppid()}, f"process {os.getppid()} on the host"),
        ([], "another process"),
    ],
)
def test_a_run_that_another_process_holds_is_left(
    adding, write_config, url, user_error, holder, message
):
    config = write_config(adding)
    write(f"{url}/{bucket.LOCK}", json.dumps(holder).encode())
    told = user_error("train", config, "--run-dir", url)
    assert told.startswith(f"{url} is in use by {message}")
    assert f"remove the object {url}/{bucket.LOCK}" in told
    assert names(url) == [bucket.LOCK]


def test_a_bucket_that_is_absent(adding, write_config, url, user_error):
    config = write_config(adding)
    message = user_error("train", config, "--run-dir", "gs://nowhere/run")
    assert message.startswith("gs://nowhere/run cannot be used: ")
    message = user_error("export", "gs://nowhere/run", "--to", "safetensors", "--output", "out")
    assert message.startswith("gs://nowhere/run cannot be used: ")
    message = user_error("export", url, "--to", "safetensors", "--output", "out")
    assert message == f"There is no run in {url}: it holds no config.yaml.\n"
