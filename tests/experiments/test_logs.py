"""`--log` of `train`: what trackers are told of a run, and when."""

from pathlib import Path

import pytest

from experiments.cli import main
from experiments.runs import logs
from gru_jax import training
from tests.training.test_trackers import RecordingWriter


@pytest.fixture
def told(monkeypatch, assume_packages):
    """What two trackers in memory are told, which stand in for those of their packages."""
    told = {"wandb": [], "mlflow": []}

    def make(name):
        def writer(*arguments, **options):
            told[name].append(("made", options))
            return RecordingWriter(*arguments, told=told[name], **options)

        return writer

    monkeypatch.setattr(logs, "WRITERS", {name: make(name) for name in told})
    assume_packages(*told, installed=True)
    return told


def train(config, *options):
    return main(["train", str(config), "--run-dir", "run", *options])


def kinds(told):
    return [what[0] for what in told]


def test_trackers_are_told_of_the_whole_run(adding, write_config, told):
    assert train(write_config(adding), "--log", "wandb,mlflow", "--seed", "3") == 0
    for name, of_tracker in told.items():
        assert kinds(of_tracker)[:2] == ["made", "open"]
        steps = [what[1] for what in of_tracker if what[0] == "log"]
        assert steps == [2, 3, 4, 6, 6]
        _, options = of_tracker[0]
        assert options["config"]["seed"] == 3
        assert "published" not in options["config"]
        assert options["tags"] == {"task": "adding", "cell": "gru"}
        (summary,) = (what[1] for what in of_tracker if what[0] == "summary")
        assert summary["test/mse"] > 0
        artifacts = [what[1] for what in of_tracker if what[0] == "artifact"]
        assert artifacts[:3] == ["config.yaml", "meta.json", "summary.json"]
        assert "learning_curves.png" in artifacts
        assert of_tracker[-1] == ("end", "finished")
        assert Path("run", name, "run.json").is_file()


def test_metrics_are_those_of_a_run_without_trackers(adding, write_config, told, workplace):
    config = write_config(adding)
    assert train(config, "--log", "wandb") == 0
    assert main(["train", str(config), "--run-dir", "plain"]) == 0
    rows, plain = (
        [
            {name: row[name] for name in row if name not in ("seconds", "steps_per_second")}
            for row in training.read_metrics(Path(run, "metrics.jsonl"))
        ]
        for run in ("run", "plain")
    )
    assert rows == plain
    assert Path("run/summary.json").read_bytes() == Path("plain/summary.json").read_bytes()


def test_an_interrupted_run_continues_in_the_same_run_of_the_tracker(
    adding, write_config, told, interrupted_at_step, capsys
):
    config = write_config(adding)
    with interrupted_at_step(4):
        assert train(config, "--log", "wandb") == 130
    assert told["wandb"][-1] == ("end", "interrupted")
    assert "--log wandb" in capsys.readouterr().err
    assert train(config, "--log", "wandb") == 0
    opened = [what[1] for what in told["wandb"] if what[0] == "open"]
    assert opened == [None, "first"]
    assert [what[1] for what in told["wandb"] if what[0] == "log"] == [2, 3, 4, 6, 6]


def test_a_finished_run_is_logged_without_training(adding, write_config, told):
    config = write_config(adding)
    assert train(config) == 0
    summary = Path("run/summary.json").read_bytes()
    assert train(config, "--log", "mlflow") == 0
    assert [what[1] for what in told["mlflow"] if what[0] == "log"] == [2, 3, 4, 6, 6]
    assert "summary" in kinds(told["mlflow"])
    assert Path("run/summary.json").read_bytes() == summary


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("wandbb", "--log is 'wandbb', but should name wandb, mlflow, tensorboard"),
        ("wandbb", "Did you mean wandb?"),
        ("", "--log is '', but should name"),
        ("wandb,", "--log is 'wandb,', but should name"),
    ],
)
def test_wrong_names(adding, write_config, user_error, told, log, expected):
    assert expected in user_error("train", write_config(adding), f"--log={log}")


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_names_its_extra(adding, write_config, user_error, assume_packages, name):
    package = "tensorboardX" if name == "tensorboard" else name
    assume_packages(package, installed=False)
    message = user_error("train", write_config(adding), "--log", name)
    assert f"--log {name} needs {package}" in message
    assert f"pip install -e '.[{name}]'" in message


def test_tensorboard_is_a_log(adding, write_config):
    pytest.importorskip("tensorboardX")
    assert train(write_config(adding), "--log", "tensorboard") == 0
    assert list(Path("run/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([2, 7], "profile_steps is [2, 7], but should be a first and a last step from 1 to 6"),
        ([3, 2], "profile_steps is [3, 2]"),
        ([0, 2], "profile_steps is [0, 2]"),
        ([2], "profile_steps"),
        ("2", "profile_steps is '2', but should be a list"),
    ],
)
def test_wrong_steps_of_a_profile(adding, write_config, user_error, steps, expected):
    adding["training"]["profile_steps"] = steps
    assert expected in user_error("train", write_config(adding))


def test_a_profile_is_in_the_run_and_its_option_in_the_config(adding, write_config):
    assert train(write_config(adding), "--training.profile-steps", "2", "3") == 0
    assert list(Path("run").glob("profile/plugins/profile/*/*.xplane.pb"))
    assert "profile_steps:\n  - 2\n  - 3\n" in Path("run/config.yaml").read_text()
    assert main(["train", "tiny.yaml", "--run-dir", "plain"]) == 0
    assert "profile_steps" not in Path("plain/config.yaml").read_text()
