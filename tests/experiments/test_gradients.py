"""Gradients through time: the norms are those of d loss / d h, and the command shows them."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from experiments.cli import main
from experiments.commands import gradients
from experiments.errors import UserError
from experiments.models.state_gradients import gradient_norms
from experiments.runs.config_loading import check
from experiments.tasks import adding as adding_task
from experiments.tasks import copy as copy_task


@pytest.fixture
def copying(adding):
    return {**adding, "task": "copy", "length": 3}


def loss_of(values, sequences=3, **model):
    """The loss of a task, on a few sequences, and the initial parameters."""
    module = {"adding": adding_task, "copy": copy_task}[values["task"]]
    values = {**values, "model": {"hidden_size": 5, **model}}
    task = module.build(check(module.Config, values, where="test"), Path())
    loss = task.last_step_loss
    few = {name: getattr(loss, name)[:sequences] for name in ("inputs", "targets")}
    return dataclasses.replace(loss, **few), task.params


def chain_rule(loss, params, output_gradient):
    """Norms for a plain RNN, h' = tanh(x W + h U + b), in float64."""
    cell = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), loss.network.first_cell(params))
    kernel, bias = (np.asarray(leaf, np.float64) for leaf in loss.network.readout(params))
    inputs = np.asarray(loss.inputs, np.float64)
    states = [np.zeros((len(inputs), cell.w_h.shape[0]))]
    for x in inputs.swapaxes(0, 1):
        states.append(np.tanh(x @ cell.w_x + states[-1] @ cell.w_h + cell.b))
    gradient = output_gradient(states[-1] @ kernel + bias, np.asarray(loss.targets)) @ kernel.T
    norms = []
    for state in reversed(states[1:]):
        norms.append(np.linalg.norm(gradient, axis=-1).mean())
        gradient = (gradient * (1 - state**2)) @ cell.w_h.T
    return np.array(norms[::-1])


def of_squared_error(outputs, sums):
    return 2 * (outputs - sums[:, None])


def of_cross_entropy(outputs, classes):
    exponentials = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True) - np.eye(9)[classes]


@pytest.mark.parametrize(
    ("task", "output_gradient"), [("adding", of_squared_error), ("copying", of_cross_entropy)]
)
def test_norms_of_a_plain_rnn_follow_from_the_chain_rule(request, task, output_gradient):
    loss, params = loss_of(request.getfixturevalue(task), cell="rnn")
    norms = gradient_norms(loss, params)
    assert norms.shape == loss.inputs.shape[1:2]
    np.testing.assert_allclose(norms, chain_rule(loss, params, output_gradient), rtol=1e-4)


def test_norms_whose_squares_underflow_in_float32_are_exact_and_smaller_ones_zero(adding):
    loss, params = loss_of({**adding, "length": 12}, cell="rnn")
    params = jax.tree.map_with_path(
        lambda path, leaf: leaf * 1e-4 if "w_h" in jax.tree_util.keystr(path) else leaf, params
    )
    expected = chain_rule(loss, params, of_squared_error)
    assert expected[-9] < 1e-30
    norms = gradient_norms(loss, params)
    np.testing.assert_allclose(norms[-9:], expected[-9:], rtol=1e-4)
    assert expected[0] < np.finfo(np.float32).tiny
    assert norms[0] == 0


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_norms_are_of_the_gradient_with_respect_to_the_state(adding, cell):
    loss, params = loss_of(adding, cell=cell)
    norms = gradient_norms(loss, params)
    recurrent = loss.network.first_cell(params)
    xs = jnp.swapaxes(loss.inputs, 0, 1)
    for t in (0, 3, 4):
        state, _ = jax.jit(gru_jax.unroll)(recurrent, xs[: t + 1])

        def summed_loss(state, t=t):
            last, _ = gru_jax.unroll(recurrent, xs[t + 1 :], state)
            predicted = loss.network.read_out(params, recurrent.output(last))[:, 0]
            return jnp.sum(jnp.square(predicted - loss.targets))

        leaves = jax.tree.leaves(jax.jit(jax.grad(summed_loss))(state))
        expected = jnp.sqrt(sum(jnp.sum(jnp.square(leaf), axis=-1) for leaf in leaves)).mean()
        np.testing.assert_allclose(norms[t], expected, rtol=1e-4)


def test_the_last_symbol_of_copy_is_due_length_plus_ten_steps_after_it_was_read(copying):
    loss, _ = loss_of(copying)
    assert "13 steps after" in loss.description
    read = np.asarray(loss.inputs).argmax(-1)[:, -1 - 13]
    np.testing.assert_array_equal(read, loss.targets)


def test_several_layers_are_rejected(adding):
    loss, params = loss_of(adding, num_layers=2)
    with pytest.raises(UserError, match="one unidirectional layer"):
        gradient_norms(loss, params)


def result_of(after, test=(0.1, 0.02)):
    of_cell = {"seeds": [0, 1], "test": list(test), "before": [[1, 1e-2], [1, 1e-4]]}
    return {
        "name": "sums",
        "command": "...",
        "loss": "a loss",
        "sequences": 4,
        "metric": "error",
        "baseline": {"name": "mean", "value": 0.1},
        "distances": [0, 10],
        "cells": {"gru": {**of_cell, "after": after}},
    }


@pytest.mark.parametrize(
    ("after", "text"),
    [
        ([1e-3, 1e-5], "1.0e-04"),
        ([0.0, 0.0], "underflow"),
        ([0.0, 0.5], "underflow in 1 of 2"),
        ([None, 0.5], "overflow"),
    ],
)
def test_the_tables(workplace, after, text):
    result = result_of([[1, norm] for norm in after])
    markdown = gradients.to_markdown(result)
    assert "| GRU | 4.47e-02 | 2.00e-02 to 1.00e-01 | 1.00e-01 | 1 of 2 |" in markdown
    assert "| GRU, at initialisation | 1.0e+00 | 1.0e-03 |" in markdown
    assert f"| GRU, after training | 1.0e+00 | {text} |" in markdown
    gradients.plot(result, workplace / "gradients.png")
    assert (workplace / "gradients.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("length", [2, 5, 51, 200, 1020])
def test_distances_are_few_and_reach_the_first_step(length):
    distances = gradients._distances(length)
    assert distances[0] == 0
    assert distances[-1] == length - 1
    assert (np.diff(distances) > 0).all()
    assert len(distances) <= 60


def test_a_directory_with_an_unfinished_run_is_rejected(workplace, user_error):
    for name in ("gru/s0", "rnn/s1"):
        folder = workplace / "out" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("task: adding\n")
    (workplace / "out/gru/s0/summary.json").write_text("{}")
    assert "out/rnn/s1 is not finished" in user_error("gradients", "out")
    assert "nowhere holds no runs" in user_error("gradients", "nowhere")
    assert "--sequences is 0" in user_error("gradients", "out", "--sequences", "0")


def test_a_task_without_a_loss_of_the_last_step_is_rejected():
    task, config = SimpleNamespace(last_step_loss=None), SimpleNamespace(task="digits")
    with pytest.raises(UserError, match="out/s0 is a run of digits, but should be one of adding"):
        gradients._first_sequences(task, config, SimpleNamespace(path="out/s0"), 3)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["adding", "copying"])
def test_the_command_measures_the_runs_of_compare(request, task, write_config, capfd):
    config = write_config(request.getfixturevalue(task))
    assert main(["compare", str(config), "--output", "out", "--seeds", "2"]) == 0
    assert main(["gradients", "out", "--sequences", "4"]) == 0
    result = json.loads(Path("out/gradients.json").read_text())
    assert result["distances"][0] == 0
    assert set(result["cells"]) == {"gru", "lstm", "rnn"}
    for cell, of_cell in result["cells"].items():
        assert of_cell["seeds"] == [0, 1]
        summary = json.loads(Path(f"out/{cell}/s1/summary.json").read_text())
        assert of_cell["test"][1] in summary["test"].values()
        assert (
            result["baseline"]["value"] in summary["baselines"][result["baseline"]["name"]].values()
        )
        for norms in of_cell["before"] + of_cell["after"]:
            assert len(norms) == len(result["distances"])
            assert norms[0] == 1
        assert of_cell["before"][0] != of_cell["before"][1]
        assert of_cell["before"][0] != of_cell["after"][0]
    assert Path("out/gradients.png").read_bytes().startswith(b"\x89PNG")
    assert Path("out/gradients.md").read_text().strip() in capfd.readouterr().out
    assert main(["gradients", "out", "--sequences", "4", "--output", "new/folder"]) == 0
    assert json.loads(Path("new/folder/gradients.json").read_text()) == result
