"""Gate activations of a trained GRU, which `unroll` does not return."""

import jax
import jax.numpy as jnp

import gru_jax


def gates(cell: gru_jax.GRUParams, xs: jax.Array) -> dict[str, jax.Array]:
    """Returns the reset gate r and the update gate z at every step of one sequence.

    In both equations of the GRU, r = sigmoid(x W_r + h U_r + b_r), and z is analogous.

    Args:
        cell: parameters of a GRU with D inputs and H units.
        xs: (T, D).

    Returns:
        "reset gate r" and "update gate z", each (T, H) in [0, 1].
    """
    h0 = gru_jax.initial_state(cell)
    _, outputs = gru_jax.unroll(cell, xs, h0)
    previous = jnp.concatenate([h0[None], outputs[:-1]])
    x_r, x_z, _ = cell.project(xs)
    h_r, h_z, _ = jnp.split(previous @ cell.w_h, 3, axis=-1)
    return {
        "reset gate r": jax.nn.sigmoid(x_r + h_r),
        "update gate z": jax.nn.sigmoid(x_z + h_z),
    }
