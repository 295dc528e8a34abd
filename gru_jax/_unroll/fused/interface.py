"""Interface of fused kernels: their arguments, their results and what they compute.

A device provides :class:`FusedKernels` that compute what
:data:`~gru_jax._unroll.fused.reference_kernels.REFERENCE_KERNELS` computes.
:func:`~gru_jax._unroll.fused.transforms.with_transform_rules` adds JAX's transformations to them,
and :func:`~gru_jax._unroll.fused.run.run` runs a GRU with them.

Notation:
    T, B, H: time steps, batch size, hidden size; T and B are 1 or more.
    matmul dtype: the dtype of the matmuls' operands; all else is float32.
"""
# pyright: reportArgumentType=false
# The batch axes are the tuples of arguments with integers in place of arrays.

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gru_jax.cells.gru import Gates
from gru_jax.typing import Array


class ForwardArgs(NamedTuple):
    """Arguments of the forward kernel."""

    projected: Gates  # (T, B, H) each, x W_r + b_r and so on
    w_h: Array  # (H, 3H), U, gates in the order r, z, n; in the matmul dtype
    b_hn: Array  # (H,), zeros for a model without biases
    h0: Array  # (B, H), the state before the first step
    reset_state: Array  # (B, H), the state after a reset
    valid: Array | None  # (T, B), bool; None if every step is valid
    resets: Array | None  # (T, B), bool; None if no step resets


class BackwardArgs(NamedTuple):
    """Arguments of the backward kernel; all Jacobians are diagonal."""

    d_ys: Array  # (T, B, H), the cotangent of each state from its own output
    state_jacobian: Array  # (T, B, H), of the new state by the old one, matmuls left out
    gate_jacobians: Gates  # (T, B, H) each, of it by the preactivations; in the matmul dtype
    w_h_t: Array  # (3H, H), U^T, in the matmul dtype
    d_h_last: Array  # (B, H), the cotangent of the last state


# The batch axis of each argument; None for arguments that all sequences share.
FORWARD_BATCH_AXES = ForwardArgs(1, None, None, h0=0, reset_state=0, valid=1, resets=1)
BACKWARD_BATCH_AXES = BackwardArgs(1, 1, 1, w_h_t=None, d_h_last=0)


class FusedKernels(NamedTuple):
    """The kernels of a device. State and gates are float32; only matmul operands are rounded.

    Attributes:
        forward: ``(args, *, reverse, dtype) -> (states, h_last)``: the states of a GRU with
            ``reset="after"``. Each step does three things in this order. Where it resets, the state
            becomes ``reset_state``. Where it is valid, ``gru_step_reset_after`` updates the state.
            Elsewhere the state stays bit for bit as it is. Returned are the state after each step
            (T, B, H) in ``dtype``, and the last one (B, H) in float32.
        backward: ``(args, *, reverse) -> (d, d_h0)``: the cotangents of a GRU's states, a
            recurrence linear in them. In each step, ``d`` is the cotangent from the step before
            plus ``d_ys``::

                d -> d * state_jacobian + [d * jacobian_r, d * jacobian_z, d * jacobian_n] U^T

            Masks and resets need no argument: the Jacobians are 1 and 0 where a state is held, and
            0 where it is reset. Returned are ``d`` of each step (T, B, H), and the cotangent of
            ``h0`` (B, H), both in float32.

    ``reverse`` says that step T - 1 comes first, as it does in the backward kernel if the forward
    kernel began with step 0.
    """

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array]]


VALID, RESET = 1, 2
"""Bits of a step: the state is updated; the state is reset first."""


def pack_flags(valid: Array | None, resets: Array | None) -> Array | None:
    """Both as one array of bits (T, B), int32; None if every step is valid and none resets."""
    if valid is None and resets is None:
        return None
    bits = jnp.int32(VALID) if valid is None else VALID * valid.astype(jnp.int32)
    return bits if resets is None else bits + RESET * resets.astype(jnp.int32)
