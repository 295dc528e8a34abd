"""User errors: one message that names the cause, exit code 2, nothing written."""

import copy
import time

import pytest

from experiments.cli import main
from experiments.tasks import TASKS
from tests.experiments.conftest import changed

EITHER_TASK = f"{', '.join(TASKS[:-1])} or {TASKS[-1]}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.hiden_size", 3, ["model.hiden_size", "3", "Did you mean hidden_size?"]),
        ("sede", 3, ["unknown key sede", "Did you mean seed?"]),
        ("lenght", 3, ["unknown key lenght", "Did you mean length?"]),
        ("model.hidden_size", -1, ["model.hidden_size is -1", "greater than or equal to 1"]),
        ("model.hidden_size", "64", ["model.hidden_size is '64'", "integer"]),
        ("model.hidden_size", 64.5, ["model.hidden_size is 64.5", "integer"]),
        ("model.hidden_size", True, ["model.hidden_size is True", "integer"]),
        ("model.dropout", 1.5, ["model.dropout is 1.5", "less than 1"]),
        ("model.dropout", float("nan"), ["model.dropout is nan"]),
        ("model.cell", "gur", ["model.cell is 'gur'", "'lstm'", "Did you mean gru?"]),
        ("model", None, ["model is None", "a mapping of keys to values"]),
        ("model", "gru", ["model is 'gru'", "a mapping of keys to values"]),
        ("model.num_layers", 1001, ["model.num_layers is 1001", "less than or equal to 1000"]),
        ("training.batch_size", 0, ["training.batch_size is 0", "greater than or equal to 1"]),
        ("training.steps", 0, ["training.steps is 0", "greater than or equal to 1"]),
        ("optimizer.learning_rate", float("inf"), ["optimizer.learning_rate is inf"]),
        ("optimizer.learning_rate", -1.0, ["optimizer.learning_rate is -1.0", "greater than 0"]),
        ("optimizer.warmup_steps", 6, ["optimizer.warmup_steps is 6", "less than"]),
        ("optimizer.schedule", "exponential", ["optimizer.final_scale is 0", "above"]),
        ("seed", -1, ["seed is -1", "greater than or equal to 0"]),
        ("task", "ading", ["task is 'ading'", EITHER_TASK, "Did you mean adding?"]),
        ("task", ["adding"], ["task is ['adding']", EITHER_TASK]),
    ],
)
def test_wrong_value_in_the_file(adding, write_config, user_error, key, value, expected):
    path = write_config(changed(adding, key, value))
    message = user_error("train", path)
    assert message.startswith(f"{path}: ")
    assert message.count("\n") == 1
    for part in expected:
        assert part in message


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("value", "low", ["published.1.value is 'low'", "number"]),
        ("value", float("nan"), ["published.1.value is nan"]),
        ("sauce", "page 3", ["unknown key published.1.sauce", "Did you mean source?"]),
        ("metric", "msi", ["published.1.metric is 'msi', but should be mse", "of adding"]),
    ],
)
def test_wrong_published_metric(published, write_config, user_error, command, key, value, expected):
    values = copy.deepcopy(published)
    values["published"][1][key] = value
    message = user_error(command, write_config(values))
    for part in expected:
        assert part in message


def test_every_wrong_value_has_a_line(adding, write_config, user_error):
    values = changed(changed(adding, "model.hidden_size", 0), "model.dropout", 2.0)
    lines = user_error("train", write_config(values)).splitlines()
    assert [line.split(" is ")[0].split(": ")[1] for line in lines] == [
        "model.hidden_size",
        "model.dropout",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a config is a mapping"),
        ("- 1\n- 2", "a config is a mapping"),
        ("task: [adding", "not valid YAML"),
        ("task: adding\nseed: 1\nseed: 2", "duplicate key seed"),
        ("seed: 1", "the key task is missing"),
        ("task: adding\n? [1]\n: 2", "not valid YAML"),
        ("task: adding\n1: 2", "unknown key 1"),
    ],
)
def test_file_that_is_not_a_config(write_config, user_error, text, expected):
    path = write_config(text)
    message = user_error("train", path)
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task: adding\nseed: 2026-13-45", "seed is '2026-13-45', but should be an integer"),
        ("task: adding\nseed: !!int foo", "not valid YAML: 'foo' is not a value of !!int, line 2"),
        ("task: adding\nseed: " + "9" * 5000, "a number has 5,000 characters"),
        ("task: adding\nseed: " + "[" * 5000 + "]" * 5000, "not valid YAML"),
        ("task: adding\nseed: yes", "seed is 'yes'"),
        ("task: adding\nmodel: {hidden_size: 99999999999999999999999}", "hidden_size is too large"),
        ("task: adding\ntraining: {batch_size: 1000000000000}", "batch_size is too large"),
        ("task: " + "a" * 10**5, "but should be digits, adding"),
        ("task: adding\nseed: " + "b" * 10**5, "seed is 'bbb"),
        ("task: adding\n" + "c" * 10**3 + ": 1", "unknown key ccc"),
        ("task: adding\n" + "\n".join(f"k{i}: 1" for i in range(20_000)), "19,990 more errors"),
        ("#" * 2 * 10**6, "is larger than"),
    ],
)
def test_a_config_of_any_size_gives_a_short_message(write_config, user_error, text, expected):
    path = write_config(text)
    begun = time.process_time()
    message = user_error("train", path)
    assert time.process_time() - begun < 10
    assert expected in message
    assert len(message) < 4000


def test_absent_file(write_config, adding, user_error):
    path = write_config(adding, "adding.yaml")
    message = user_error("train", path.with_name("ading.yaml"))
    assert f"There is no config file {path.with_name('ading.yaml')}." in message
    assert f"Did you mean {path}?" in message


def test_file_that_is_a_directory(workplace, user_error):
    assert "cannot be read" in user_error("train", workplace)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.hiden-size", "3"], ["--model.hiden-size", "--model.hidden-size"]),
        (["--model.hidden-size", "-1"], ["--model.hidden-size is -1", "equal to 1"]),
        (["--model.hidden-size", "many"], ["--model.hidden-size", "many"]),
        (["--model.hidden-size", "1.5"], ["--model.hidden-size", "1.5"]),
        (["--model.dropout", "1.5"], ["--model.dropout is 1.5", "less than 1"]),
        (["--model.dropout", "nan"], ["--model.dropout is nan"]),
        (["--model.cell", "gur"], ["--model.cell", "gur", "lstm"]),
        (["--training.batch-size", "0"], ["--training.batch-size is 0", "equal to 1"]),
        (["--length", "1"], ["--length is 1", "greater than or equal to 2"]),
        (["--optimizer.warmup-steps", "9"], ["optimizer.warmup_steps is 9", "less than"]),
        (["--seed"], ["--seed", "Missing"]),
        (["--noise", "0.1"], ["--noise"]),
        (["--resume", "maybe"], ["--resume", "maybe", "never"]),
        (["surplus"], ["surplus"]),
        (["--resume", "must"], ["--resume must", "--run-dir"]),
    ],
)
def test_wrong_option(adding, write_config, user_error, options, expected):
    message = user_error("train", write_config(adding), *options)
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "The command is missing"),
        (["trian"], "Did you mean train?"),
        (["train"], "The config file is missing"),
        (["train", "--seed", "3"], "The config file is missing"),
        (["fetch", "jbs"], "There is no data set jbs. Did you mean jsb?"),
        (["fetch", "jsb", "none"], "The data sets are jsb, nottingham, "),
    ],
)
def test_wrong_command(user_error, arguments, expected):
    assert expected in user_error(*arguments)


def test_music_must_not_see_its_targets(music, write_config, user_error):
    message = user_error("train", write_config(changed(music, "model.bidirectional", True)))
    assert "model.bidirectional is True, but should be False" in message


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["fetch", "--help"], ["report", "--help"]]
)
def test_help(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_lists_fields_with_types_and_defaults(adding, write_config, capsys):
    path = write_config(changed(adding, "model.hidden_size", 37))
    with pytest.raises(SystemExit) as stop:
        main(["train", str(path), "--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--model.hidden-size INT (37)" in printed
    assert "--model.cell {gru,lstm,rnn} (gru)" in printed
    assert "--length INT" in printed
    assert "--run-dir {None}|PATH" in printed
    with pytest.raises(SystemExit):
        main(["train", str(path), "-H"])
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--model.hidden-size INT Units of a layer, in each direction. (default: 37)" in printed
    assert "--model.cell {gru,lstm,rnn} Recurrent cell. (default: gru)" in printed
    assert "--length INT" in printed
    assert "--run-dir {None}|PATH" in printed
