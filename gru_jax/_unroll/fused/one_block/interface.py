"""Arguments and results of the one-block kernels.

Notation:
    C: copies, each with weights of its own: seeds, members of an ensemble.
    T, B, H: time steps, sequences of a copy, hidden units.
    matmul dtype: the dtype of the matmuls' operands; see :func:`matmul_dtype`.
Gates are packed in one axis in the order r, z, n.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gru_jax.typing import Array, DType

RESIDUAL_DTYPE = jnp.float16
"""Of saved preactivations: 10 bits of mantissa, and sigmoid and tanh are constant beyond 65504."""

LARGEST_OPERAND = 6e4
"""Weights and states beyond it do not fit float16; the forward pass is then the reference."""


class ForwardArgs(NamedTuple):
    """Arguments of the forward kernel.

    Attributes:
        projected: (C, T, B, 3H), ``x W + b``, float32.
        w_h: (C, H, 3H), U; float32, or the dtype of inputs in 16 bits.
        b_hn: (C, H), float32, zeros for a model without biases.
        h0: (C, B, H), float32, the state before the first step.
        reset_state: (C, H), float32, the state after a reset.
        reverse: (C,), int32, 1 for a copy that reads step T - 1 first, otherwise 0.
        flags: (C, T, B), int32, see :func:`~gru_jax._unroll.fused.interface.pack_flags`; None if
            every step is valid and none resets.
    """

    projected: Array
    w_h: Array
    b_hn: Array
    h0: Array
    reset_state: Array
    reverse: Array
    flags: Array | None


class ForwardResult(NamedTuple):
    """Results of the forward kernel.

    Attributes:
        states: (C, T, B, H), the state after each step.
        h_last: (C, B, H), float32.
        preactivations: (C, T, B, 4H) in :data:`RESIDUAL_DTYPE`, what sigmoid and tanh are applied
            to in r, z and n, then ``h U_n + b_hn``; None unless it is asked for.
    """

    states: Array
    h_last: Array
    preactivations: Array | None


class BackwardArgs(NamedTuple):
    """Arguments of the backward kernel.

    Attributes:
        d_ys: (C, T, B, H), the cotangent of each state from its own output.
        states_before: (C, T, B, H), the state that each step reads, after a reset.
        preactivations: as in :class:`ForwardResult`.
        w_h: as in :class:`ForwardArgs`.
        d_h_last: (C, B, H), float32, the cotangent of the last state.
        reverse: as in :class:`ForwardArgs`, of the forward kernel; the backward kernel reads the
            steps in the other order.
        flags: as in :class:`ForwardArgs`.
    """

    d_ys: Array
    states_before: Array
    preactivations: Array
    w_h: Array
    d_h_last: Array
    reverse: Array
    flags: Array | None


class BackwardResult(NamedTuple):
    """Results of the backward kernel.

    Attributes:
        d_preactivations: (C, T, B, 4H) in the dtype of ``d_ys``, the cotangents of
            :attr:`ForwardResult.preactivations`.
        d_h0: (C, B, H), float32.
        d_reset_state: (C, B, H), float32, from the resets of each sequence; None without flags.
    """

    d_preactivations: Array
    d_h0: Array
    d_reset_state: Array | None


FORWARD_BATCH_AXES = ForwardArgs(2, None, None, 1, None, None, 2)  # pyright: ignore[reportArgumentType]
BACKWARD_BATCH_AXES = BackwardArgs(2, 2, 2, None, 1, None, 2)  # pyright: ignore[reportArgumentType]
FORWARD_RESULT_BATCH_AXES: tuple[Any, ...] = ForwardResult(2, 1, 2)  # pyright: ignore[reportArgumentType]
BACKWARD_RESULT_BATCH_AXES: tuple[Any, ...] = BackwardResult(2, 1, 1)  # pyright: ignore[reportArgumentType]


def matmul_dtype(dtype: DType) -> DType:
    """The dtype of the operands of a matmul with weights of ``dtype``.

    float32 weights are rounded to float16, whose mantissa is that of TF32, in which XLA multiplies
    float32 on a GPU by default.
    """
    return jnp.float16 if dtype == jnp.float32 else dtype
