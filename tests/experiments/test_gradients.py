"""Gradients through time: the norms are those of d loss / d h, and the command shows them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from experiments.cli import main
from experiments.errors import UserError
from experiments.runs.config_loading import check
from experiments.tasks import adding as task


def network_of(adding, **model):
    values = {**adding, "model": {"hidden_size": 5, **model}}
    return task.make_network(check(task.Config, values, where="test"))


@pytest.mark.parametrize(
    "cell", ["rnn", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("gru", "lstm"))]
)
def test_norms_are_of_the_gradient_with_respect_to_the_state(adding, cell):
    network = network_of(adding, cell=cell)
    batch = task.sample_sums(3, 6, (0,))
    norms = task.gradient_norms(network, network.params, batch)
    assert norms.shape == (6,)

    recurrent = network.first_cell(network.params)
    xs = jnp.swapaxes(batch.sequences, 0, 1)
    for t in (0, 3, 5):
        state, _ = gru_jax.unroll(recurrent, xs[: t + 1])

        def loss(state, t=t):
            last, _ = gru_jax.unroll(recurrent, xs[t + 1 :], state)
            predicted = network.read_out(network.params, recurrent.output(last))[:, 0]
            return jnp.sum(jnp.square(predicted - batch.sums))

        leaves = jax.tree.leaves(jax.grad(loss)(state))
        expected = jnp.sqrt(sum(jnp.sum(jnp.square(leaf), axis=-1) for leaf in leaves)).mean()
        np.testing.assert_allclose(norms[t], expected, rtol=1e-4)


def test_several_layers_are_rejected(adding):
    network = network_of(adding, num_layers=2)
    with pytest.raises(UserError, match="one unidirectional layer"):
        task.gradient_norms(network, network.params, task.sample_sums(2, 4, (0,)))


@pytest.mark.slow
def test_the_command_measures_the_runs_of_compare(adding, write_config, capfd):
    config = write_config(adding)
    assert main(["compare", str(config), "--output", "out", "--seeds", "1"]) == 0
    assert main(["gradients", "out", "--sequences", "4"]) == 0
    norms = json.loads(Path("out/gradients.json").read_text())["norms"]
    assert set(norms) == {"gru", "lstm", "rnn"}
    for of_cell in norms.values():
        for curve in of_cell.values():
            assert len(curve) == 5
            assert curve[-1] == pytest.approx(1)
    assert Path("out/gradients.png").read_bytes().startswith(b"\x89PNG")
    assert Path("out/gradients.md").read_text().strip() in capfd.readouterr().out


@pytest.mark.slow
def test_wrong_directories_are_named(digits, write_config, refused):
    assert "nowhere holds no finished runs" in refused("gradients", "nowhere")
    config = write_config(digits)
    assert main(["compare", str(config), "--output", "out", "--seeds", "1", "--cells", "gru"]) == 0
    assert "is a run of digits" in refused("gradients", "out")
