"""Norms of a loss's gradient with respect to the states that came before it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.errors import UserError
from experiments.models.recurrent import Network
from experiments.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class LastStepLoss:
    """A loss of the last step's output, on test sequences.

    Attributes:
        network: a network of one unidirectional layer.
        inputs: (N, T, in_features).
        targets: (N,), those of the last step.
        losses: (outputs (N, out_features), targets (N,)) -> losses (N,).
        description: what the loss is, as the subject of a sentence.
        baseline: the name of the task's baseline that does not read the inputs.
    """

    network: Network
    inputs: Array
    targets: Array
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    description: str
    baseline: str


def gradient_norms(loss: LastStepLoss, params: Params) -> np.ndarray:
    """Returns the norm of d loss_T / d h_t at each step t, averaged over the sequences: (T,).

    For an LSTM h_t is its whole state, (h, c). Norms below float32's smallest normal number, in
    which gradients are computed, are 0.

    Raises:
        UserError: a network of several layers or directions, which has several states.
    """
    network = loss.network
    if network.num_cells != 1:
        raise UserError(
            "Gradients through time need a model of one unidirectional layer, but the model has "
            f"{network.num_cells} cells."
        )
    cell = network.first_cell(params)
    xs = jnp.swapaxes(jnp.asarray(loss.inputs), 0, 1)
    h0 = gru_jax.initial_state(cell, (xs.shape[1],))

    # The gradient with respect to a perturbation of h_t is that with respect to h_t.
    def summed_loss(perturbations: Any) -> jax.Array:
        def step(state: Any, inputs: tuple[jax.Array, Any]) -> tuple[Any, None]:
            x, perturbation = inputs
            return jax.tree.map(jnp.add, gru_jax.step(cell, state, x), perturbation), None

        last, _ = jax.lax.scan(step, h0, (xs, perturbations))
        outputs = network.read_out(params, cell.output(last))
        return loss.losses(outputs, jnp.asarray(loss.targets)).sum()

    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(xs), *leaf.shape)), h0)
    leaves = jax.tree.leaves(jax.jit(jax.grad(summed_loss))(zeros))
    # Squares of small float32 numbers would underflow.
    gradients = np.concatenate([np.asarray(leaf, np.float64) for leaf in leaves], axis=-1)
    norms = np.linalg.norm(gradients, axis=-1).mean(axis=1)
    return np.where(norms < np.finfo(np.float32).tiny, 0, norms)
