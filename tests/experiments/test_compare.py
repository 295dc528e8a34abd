"""Comparisons: vmapped seeds equal seeds in sequence, and sizes are fair."""

import json
from pathlib import Path

import pytest

from experiments import generated
from experiments.cli import main
from experiments.commands.compare import vmapped_training
from experiments.commands.compare.sizes import count_parameters, with_cell
from experiments.runs.config_loading import check, load_config
from experiments.tasks import adding as adding_task
from experiments.tasks import load_task
from tests.slow import slow


def compare(config, output, *options):
    return main(["compare", str(config), "--output", str(output), "--cells", "gru", *options])


def read(path):
    return json.loads(path.read_text())


def contents(folder):
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [Path(folder), *Path(folder).rglob("*")]
    }


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_vmapped_seeds_equal_seeds_in_sequence(adding, write_config):
    adding["model"] |= {"dropout": 0.2, "dropconnect": 0.2}
    adding["optimizer"] |= {"max_grad_norm": 0.1, "name": "adamw", "schedule": "cosine"}
    config = write_config(adding)
    assert compare(config, "vmapped", "--seeds", "2") == 0
    assert compare(config, "sequential", "--seeds", "2", "--vmap-seeds", "False") == 0
    for seed in ("s0", "s1"):
        vmapped, alone = Path("vmapped", "gru", seed), Path("sequential", "gru", seed)
        assert {path.name for path in vmapped.iterdir()} == {path.name for path in alone.iterdir()}
        ours, theirs = read(vmapped / "summary.json"), read(alone / "summary.json")
        assert ours.pop("test")["mse"] == pytest.approx(theirs.pop("test")["mse"], rel=1e-4)
        assert ours.pop("validation")["mse"] == pytest.approx(
            theirs.pop("validation")["mse"], rel=1e-4
        )
        assert ours == theirs
        for left, right in zip(rows(vmapped), rows(alone), strict=True):
            assert left.keys() == right.keys()
            assert (left.pop("step"), left.pop("split")) == (right["step"], right["split"])
            for name in left.keys() - {"seconds", "steps_per_second"}:
                assert left[name] == pytest.approx(right[name], rel=1e-4), name
    assert not list(Path("vmapped", "gru").glob("vmapped-*"))


@pytest.mark.slow
def test_only_missing_runs_are_trained(adding, write_config):
    config = write_config(adding)
    assert compare(config, "out", "--seeds", "1") == 0
    first = Path("out/gru/s0/meta.json").read_text()
    assert compare(config, "out", "--seeds", "3") == 0
    assert Path("out/gru/s0/meta.json").read_text() == first
    assert read(Path("out/compare.json"))["models"][0]["seeds"] == [0, 1, 2]
    assert read(Path("out/gru/s2/meta.json"))["vmapped_seeds"] == [1, 2]


@pytest.mark.slow
def test_the_result_has_the_revisions_of_its_runs(adding, write_config):
    config = write_config(adding)
    assert compare(config, "out", "--seeds", "1") == 0
    path = Path("out/gru/s0/meta.json")
    other = {"git_revision": "0" * 40, "git_changed_files": ["changed.py"]}
    path.write_text(json.dumps({**read(path), **other}))
    assert compare(config, "out", "--seeds", "2") == 0
    result = read(Path("out/compare.json"))
    assert result["git_revision"] != other["git_revision"]
    assert result["runs"][0] == other
    assert [run["git_revision"] for run in result["runs"][1:]] == [result["git_revision"]]


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", ["True", "False"])
def test_an_interrupted_comparison_resumes(
    adding, write_config, interrupted_at_step, capfd, vmapped
):
    config = write_config(adding)
    options = ("--seeds", "2", "--vmap-seeds", vmapped)
    assert compare(config, "whole", *options) == 0

    with interrupted_at_step(4, seed=1):
        assert compare(config, "stopped", *options) == 130
    assert "To resume: python -m experiments compare" in capfd.readouterr().err
    assert not Path("stopped/compare.json").exists()
    if vmapped == "True":
        # Each run has the rows of its steps so far.
        for seed in ("s0", "s1"):
            steps = [row["step"] for row in rows(Path("stopped/gru", seed))]
            assert steps == [2, 3, 4]
    assert compare(config, "stopped", *options) == 0
    for seed in ("s0", "s1"):
        whole, stopped = Path("whole/gru", seed), Path("stopped/gru", seed)
        assert read(whole / "summary.json") == read(stopped / "summary.json")
        assert [row["step"] for row in rows(whole)] == [row["step"] for row in rows(stopped)]


def test_finished_runs_are_compared_from_where_they_are(adding, write_config, user_error, capfd):
    """As on a file system that is mounted read-only: nothing is written there."""
    config = write_config(adding)
    assert compare(config, "runs", "--seeds", "1") == 0
    trained = read(Path("runs/compare.json"))
    for path in Path("runs").glob("compare.*"):
        path.unlink()
    before = contents("runs")
    assert compare(config, "new/page", "--seeds", "1", "--from", "runs") == 0
    assert contents("runs") == before
    again = read(Path("new/page/compare.json"))
    assert again["models"] == trained["models"]
    assert again["command"].endswith("--from runs")
    assert {path.name for path in Path("new/page").iterdir()} == {
        "compare.json",
        "compare.md",
        "compare.png",
        "curves.png",
    }

    options = ("--cells", "gru", "--output", "other", "--from")
    message = user_error("compare", config, *options, "runs", "--seeds", "3")
    assert "2 of 3 runs are not finished, the first of them runs/gru/s1" in message
    message = user_error("compare", config, *options, "runs", "--seeds", "1", "--length", "6")
    assert "runs/gru/s0 holds another experiment" in message
    assert contents("runs") == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "nowhere"], "--from is nowhere, which does not exist"),
        (["--from", "tiny.yaml"], "--from is tiny.yaml, which is a file"),
        (["--from", ".", "--tensorboard"], "--tensorboard cannot be given with --from"),
        (["--from", ".", "--search"], "--search cannot be given with --from"),
    ],
)
def test_options_that_do_not_go_with_from(adding, write_config, user_error, options, expected):
    adding["sweep"] = {"model.dropout": {"choices": [0.0, 0.5]}}
    assert expected in user_error("compare", write_config(adding), *options)


def test_ctrl_c_before_the_training_is_a_message(adding, write_config, monkeypatch, capfd):
    def interrupted(config, data_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr(adding_task, "build", interrupted)
    assert compare(write_config(adding), "out", "--seeds", "2") == 130
    assert capfd.readouterr().err == "Stopped by Ctrl-C.\n"


@pytest.mark.slow
def test_finished_training_is_not_repeated(adding, write_config, monkeypatch, capfd):
    """The command fails after the training, when one of two runs has its summary."""
    config = write_config(adding)
    assert compare(config, "whole", "--seeds", "2") == 0
    finalize_run, sample = vmapped_training.finalize_run, adding_task.sample_sums

    def full_disk(run, *rest):
        if run.path.name == "s1":
            raise OSError("the disk is full")
        finalize_run(run, *rest)

    monkeypatch.setattr(vmapped_training, "finalize_run", full_disk)
    assert compare(config, "stopped", "--seeds", "2") == 1
    assert "the disk is full" in capfd.readouterr().err
    monkeypatch.setattr(vmapped_training, "finalize_run", finalize_run)

    def no_training(number, length, seed):
        assert seed[0] != generated.TRAIN
        return sample(number, length, seed)

    monkeypatch.setattr(adding_task, "sample_sums", no_training)
    assert compare(config, "stopped", "--seeds", "2") == 0
    for seed in ("s0", "s1"):
        whole, stopped = Path("whole/gru", seed), Path("stopped/gru", seed)
        assert read(whole / "summary.json") == read(stopped / "summary.json")
    assert not list(Path("stopped/gru").glob("vmapped-*"))


def test_a_run_of_a_comparison_is_an_ordinary_run(adding, write_config, capfd):
    """`train` accepts its directory, and it has the best checkpoint."""
    config = write_config(adding)
    assert compare(config, "out", "--seeds", "2") == 0
    summary = read(Path("out/gru/s1/summary.json"))
    again = ["train", str(config), "--seed", "1", "--run-dir", "out/gru/s1", "--resume", "must"]
    assert main(again) == 0
    assert f"{summary['test']['mse']:.4f}" in capfd.readouterr().out
    (checkpoint,) = Path("out/gru/s1/checkpoints").iterdir()
    assert int(checkpoint.name) == summary["best_step"]


@pytest.mark.parametrize("cell", ["lstm", "rnn", "gru"])
@pytest.mark.parametrize("layers", [slow(1), 2])
def test_cells_have_the_nearest_number_of_parameters(adding, cell, layers):
    config = check(
        load_task("adding").Config,
        {**adding, "model": {"hidden_size": 20, "num_layers": layers, "bidirectional": True}},
        where="test",
    )
    other = with_cell(config, cell, Path())
    size = other.model.hidden_size
    wanted = count_parameters(config, Path())

    def distance(size):
        model = other.model.model_copy(update={"hidden_size": size})
        return abs(count_parameters(other.model_copy(update={"model": model}), Path()) - wanted)

    assert other.model.cell == cell
    assert distance(size) == min(map(distance, range(size - 2, size + 3)))
    assert (size == 20) == (cell == "gru")


@pytest.mark.slow
def test_a_cell_gets_its_overrides_and_the_table_shows_them(adding, write_config, capfd):
    own = {"optimizer.learning_rate": 0.25, "training.batch_size": 4}
    config = write_config({**adding, "cells": {"rnn": own}})
    assert compare(config, "out", "--seeds", "1", "--cells", "gru,rnn") == 0
    gru, rnn = (load_config(Path("out", cell, "s0", "config.yaml")) for cell in ("gru", "rnn"))
    assert (rnn.optimizer.learning_rate, rnn.training.batch_size) == (0.25, 4)
    assert (gru.optimizer.learning_rate, gru.training.batch_size) == (0.01, 8)
    assert gru.cells == rnn.cells == {}
    models = read(Path("out/compare.json"))["models"]
    assert [model["own"] for model in models] == [{}, own]
    line = f"{models[1]['model']}: optimizer.learning_rate 0.25, training.batch_size 4."
    assert f"Cell-specific values: {line}" in capfd.readouterr().out

    # The runs do not depend on where their values came from.
    plain = write_config({**adding, "model": {**adding["model"], "cell": "gru"}}, "plain.yaml")
    assert compare(plain, "out", "--seeds", "1", "--cells", "gru") == 0


def test_values_of_the_own_cell_replace_the_main_ones_in_comparisons_only(adding):
    own = {"gru": {"optimizer.learning_rate": 0.5, "model.chrono_bias": 5.0}}
    config = check(load_task("adding").Config, {**adding, "cells": own}, where="test")
    gru, lstm = (with_cell(config, cell, Path()) for cell in ("gru", "lstm"))
    assert (gru.optimizer.learning_rate, gru.model.chrono_bias) == (0.5, 5.0)
    assert gru.model.hidden_size == config.model.hidden_size
    assert (lstm.optimizer.learning_rate, lstm.model.chrono_bias) == (0.01, None)
    assert config.optimizer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"lsmt": {}}, ["cells.lsmt", "'gru', 'lstm' or 'rnn'"]),
        ({"gru": {"model.hidden_size": 7}}, ["cells.gru", "model.hidden_size"]),
        ({"rnn": {"optimizer.learning_rat": 0.1}}, ["cells.rnn", "Did you mean learning_rate?"]),
        ({"rnn": {"optimiser.learning_rate": 0.1}}, ["cells.rnn", "no key optimiser.learning"]),
        ({"rnn": {"optimizer.learning_rate": -1}}, ["cells.rnn", "optimizer.learning_rate", "-1"]),
        ({"rnn": {"model.hidden_size": 7}}, ["cells.rnn", "model.hidden_size"]),
        ({"rnn": 0.1}, ["cells.rnn is 0.1", "a mapping"]),
    ],
)
def test_wrong_values_of_a_cell_are_named(cells, expected, adding, write_config, user_error):
    message = user_error("compare", str(write_config({**adding, "cells": cells})))
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--cells", "gru,ltsm"], ["ltsm", "Did you mean lstm?"]),
        (["--seeds", "0"], ["--seeds", "0"]),
        (["--search"], ["the key sweep is missing"]),
        (["--trials", "0"], ["--trials", "0"]),
        (["--average-over", "held_out"], ["'held_out'", "named values", "none"]),
        (["--model.hidden-size", "0"], ["model.hidden-size", "0"]),
    ],
)
def test_wrong_options_are_named(options, expected, adding, write_config, user_error):
    message = user_error("compare", str(write_config(adding)), *options)
    for part in expected:
        assert part in message


def test_another_experiment_is_rejected(adding, write_config, user_error):
    config = write_config(adding)
    assert compare(config, "out", "--seeds", "1") == 0
    message = user_error("compare", str(config), "--output", "out", "--length", "7")
    assert "holds another experiment" in message
    assert "length" in message
