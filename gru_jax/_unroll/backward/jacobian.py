"""The derivatives of a step's elementwise part, and cotangents through them."""

from typing import TypeAlias

import jax.numpy as jnp

from gru_jax._unroll.masking import broadcast_mask
from gru_jax.typing import Array

Leaves: TypeAlias = list[Array]

ElementwiseJacobian: TypeAlias = list[dict[int, Array]]
"""For each output of a step's elementwise part, its derivative with respect to inputs, by input."""


def preactivation_cotangent(jacobian: dict[int, Array], d_outputs: dict[int, Array]) -> Array:
    """The cotangent (..., k * H) of a matmul's preactivations, from the outputs that read them."""
    terms = [jacobian[i] * d_outputs[i][..., None, :] for i in jacobian if i in d_outputs]
    total = sum(terms[1:], terms[0])
    return total.reshape(*total.shape[:-2], -1)


def cotangent_of_input(
    jacobian: ElementwiseJacobian, d_outputs: dict[int, Array], slot: int
) -> Array:
    """The cotangent of one input of the elementwise part, from the outputs that read it."""
    terms = [
        row[slot] * d_outputs[i] for i, row in enumerate(jacobian) if i in d_outputs and slot in row
    ]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros_like(d_outputs[slot])


def stack_jacobian(jacobian: ElementwiseJacobian, slots: range) -> dict[int, Array]:
    """By output, its derivatives with respect to a matmul's preactivations, (T, *batch, k, H).

    One array and not k: the scan multiplies it in one kernel.
    """
    stacked = {}
    for output, row in enumerate(jacobian):
        if any(slot in row for slot in slots):
            zeros = jnp.zeros_like(next(iter(row.values())))
            stacked[output] = jnp.stack([row.get(slot, zeros) for slot in slots], axis=-2)
    return stacked


def mask_jacobian(
    jacobian: ElementwiseJacobian, valid: Array, states: Leaves
) -> ElementwiseJacobian:
    """The derivatives, those of the identity at steps that are not valid."""

    def where_valid(d: Array, otherwise: Array) -> Array:
        return jnp.where(broadcast_mask(valid, d), d, otherwise)

    masked = []
    for output, row in enumerate(jacobian):
        if output < len(states):
            row = {slot: where_valid(d, jnp.zeros_like(d)) for slot, d in row.items()}
            own = row.get(output, jnp.zeros_like(states[output]))
            row[output] = where_valid(own, jnp.ones_like(own))
        masked.append(row)
    return masked
