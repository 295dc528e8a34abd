"""Optimisers and schedules of Optax in configs and on the command line."""

import pytest
import yaml

from experiments.cli import main
from experiments.config import OptimizerConfig
from experiments.runs.config_loading import load_config
from gru_jax import training

LION = {"name": "lion", "learning_rate": 0.01, "b1": 0.95}


def losses(run):
    return [row["loss"] for row in training.read_metrics(run / "metrics.jsonl") if "loss" in row]


def resolved(run):
    return yaml.safe_load((run / "config.yaml").read_text())["optimizer"]


def test_options_in_the_file_and_on_the_command_line_are_the_same(adding, write_config, workplace):
    assert main(["train", str(write_config(adding)), "--run-dir", "adam"]) == 0
    options = ["--optimizer.name=lion", "--optimizer.b1", "0.95", "--optimizer.mu-dtype=bfloat16"]
    assert main(["train", str(write_config(adding)), *options, "--run-dir", "options"]) == 0
    of_file = write_config({**adding, "optimizer": {**LION, "mu_dtype": "bfloat16"}})
    assert main(["train", str(of_file), "--run-dir", "file"]) == 0
    of_options, of_file = losses(workplace / "options"), losses(workplace / "file")
    assert of_options == of_file != losses(workplace / "adam")
    assert resolved(workplace / "options") == resolved(workplace / "file")
    assert resolved(workplace / "file")["b1"] == 0.95


def test_an_option_of_the_file_can_be_changed(adding, write_config, workplace, user_error):
    path = write_config({**adding, "optimizer": LION})
    assert main(["train", str(path), "--optimizer.b1", "0.5", "--run-dir", "run"]) == 0
    assert resolved(workplace / "run")["b1"] == 0.5
    message = user_error("train", path, "--run-dir", "run")
    assert "It differs in optimizer.b1 (0.95 here, 0.5 there)" in message


def test_a_schedule_of_optax(adding, write_config, workplace):
    schedule = {"schedule": "piecewise_constant_schedule"}
    boundaries = {"schedule_options": {"boundaries_and_scales": {2: 0.5, 4: 0.1}}}
    adding["optimizer"] |= {**schedule, **boundaries}
    assert main(["train", str(write_config(adding)), "--run-dir", "run"]) == 0
    assert resolved(workplace / "run")["schedule_options"] == boundaries["schedule_options"]
    options = [
        "--optimizer.schedule",
        "polynomial_schedule",
        "--optimizer.schedule-options.power=2",
    ]
    adding["optimizer"] = {"learning_rate": 0.01}
    assert main(["train", str(write_config(adding)), *options, "--run-dir", "other"]) == 0
    assert resolved(workplace / "other")["schedule_options"] == {"power": 2}


@pytest.mark.slow
def test_options_are_swept(adding, write_config, workplace):
    adding["optimizer"] = dict(LION)
    adding["sweep"] = {
        "optimizer.b1": {"choices": [0.5, 0.95]},
        "optimizer.schedule_options.power": {"choices": [1.0]},
    }
    adding["optimizer"] |= {"schedule": "polynomial_schedule", "schedule_options": {"power": 2.0}}
    assert main(["sweep", str(write_config(adding)), "--output", "sweep"]) == 0
    found = {resolved(path.parent)["b1"] for path in workplace.glob("sweep/*/config.yaml")}
    assert found == {0.5, 0.95}


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (
            {"b3": 1},
            "optimizer: unknown key b3 (its value is 1): adam has no such option. It has b1, b2",
        ),
        ({"lerning_rate": 1}, "Did you mean learning_rate?"),
        ({"name": "sgd", "b1": 0.9}, "unknown key b1 (its value is 0.9): sgd has no such option"),
        ({"name": "lion", "b1": [1]}, "b1 is [1], but should be a number or a text."),
        ({"name": "lion", "b1": float("nan")}, "b1 is nan, but should be"),
        ({"name": "lion", "b1": 10**30}, "but should be a number or a text"),
        ({"name": 3}, "optimizer.name is 3, but should be a string"),
        ({"schedule": "cosin"}, "constant, cosine, exponential, linear, or a function of Optax"),
        ({"schedule": "cosin"}, "Did you mean cosine?"),
        ({"schedule_options": {"power": "a" * 10**4 + "b"}, "schedul": 1}, "unknown key schedul"),
        ({"schedule_options": 3}, "optimizer.schedule_options is 3, but should be a mapping"),
    ],
)
def test_what_is_known_without_optax(adding, write_config, user_error, optimizer, expected):
    message = user_error("train", write_config({**adding, "optimizer": optimizer}))
    assert expected in message
    assert len(message) < 500


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ({"name": "loin"}, "did you mean lion?"),
        ({"name": "lion", "b3": 1}, "options has 'b3', which is no option of optax.lion"),
        ({"name": "lbfgs"}, "optimizer: optax.lbfgs cannot be used here"),
        ({"schedule": "polynomal_schedule"}, "did you mean polynomial_schedule?"),
        ({"schedule_options": {"power": 2}}, 'schedule "constant" takes no options'),
    ],
)
def test_what_optax_does_not_have(adding, write_config, user_error, command, optimizer, expected):
    message = user_error(command, write_config({**adding, "optimizer": optimizer}))
    assert message.startswith("optimizer: ")
    assert expected in message


@pytest.mark.parametrize("option", ["--optimizer.b3", "--optimizer.learning-rat"])
def test_an_option_of_no_known_optimiser_is_told_at_once(adding, write_config, option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", str(write_config(adding)), option, "1"])
    assert stop.value.code == 2
    assert f"Unrecognized options: {option}" in capsys.readouterr().err


def test_runs_of_earlier_versions_are_resumed(adding, write_config, workplace):
    """Their config has no `schedule_options`."""
    path = write_config(adding)
    assert main(["train", str(path), "--run-dir", "run"]) == 0
    config = workplace / "run" / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "schedule_options" not in line))
    assert len(config.read_text()) < len("".join(lines))
    assert main(["train", str(path), "--run-dir", "run"]) == 0
    assert load_config(config) == load_config(path)


def test_configs_compare_and_hash_with_their_options():
    plain, same = OptimizerConfig(), OptimizerConfig()
    assert plain == same
    assert hash(plain) == hash(same)
    lion = OptimizerConfig(name="lion", b1=0.5)
    assert lion != OptimizerConfig(name="lion", b1=0.6)
    assert lion == OptimizerConfig.model_validate(lion.model_dump())
    assert [*OptimizerConfig.model_fields][:2] == ["name", "learning_rate"]
