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

from typing import NamedTuple, Protocol, runtime_checkable

from gru_jax.typing import Array, DType

Gates = tuple[Array, Array, Array]
"""One array (T, B, H) for each of the gates r, z, n."""


class ForwardArgs(NamedTuple):
    """Arguments of the forward kernel.

    Attributes:
        projected: (T, B, H) each, ``x W_r + b_r`` and so on.
        w_h: (H, 3H), U, gates in the order r, z, n; in the matmul dtype.
        b_hn: (H,), zeros for a model without biases.
        h0: (B, H), the state before the first step.
        reset_state: (B, H), the state after a reset.
        valid: (T, B), bool; None if every step is valid.
        resets: (T, B), bool; None if no step resets.
    """

    projected: Gates
    w_h: Array
    b_hn: Array
    h0: Array
    reset_state: Array
    valid: Array | None
    resets: Array | None


class BackwardArgs(NamedTuple):
    """Arguments of the backward kernel.

    Attributes:
        d_ys: (T, B, H), the cotangent of each state from its own output.
        state_jacobian: (T, B, H), the diagonal Jacobian of the new state with respect to the old
            one, matmuls left out.
        gate_jacobians: (T, B, H) each, the diagonal Jacobians of the new state with respect to the
            matmul's preactivations; in the matmul dtype.
        w_h_t: (3H, H), U^T, in the matmul dtype.
        d_h_last: (B, H), the cotangent of the last state.
    """

    d_ys: Array
    state_jacobian: Array
    gate_jacobians: Gates
    w_h_t: Array
    d_h_last: Array


FORWARD_BATCH_AXES = ForwardArgs(
    projected=1, w_h=None, b_hn=None, h0=0, reset_state=0, valid=1, resets=1
)
"""The batch axis of each argument; None for arguments that all sequences share."""

BACKWARD_BATCH_AXES = BackwardArgs(
    d_ys=1, state_jacobian=1, gate_jacobians=1, w_h_t=None, d_h_last=0
)
"""The batch axis of each argument; None for arguments that all sequences share."""


@runtime_checkable
class ForwardKernel(Protocol):
    """Computes the states of a GRU with ``reset="after"``.

    Each step does three things in this order. Where it resets, the state becomes ``reset_state``.
    Where it is valid, ``gru_step_reset_after`` updates the state. Elsewhere the state stays bit for
    bit as it is. State and gates are float32; only the matmuls' operands are rounded.

    Args:
        args: the arrays.
        reverse: whether step T - 1 comes first.
        dtype: the dtype of the returned states.

    Returns:
        The state after each step (T, B, H) in ``dtype``, and the last state (B, H) in float32.
    """

    def __call__(
        self, args: ForwardArgs, *, reverse: bool, dtype: DType
    ) -> tuple[Array, Array]: ...


@runtime_checkable
class BackwardKernel(Protocol):
    """Computes the cotangents of a GRU's states, a recurrence linear in them.

    In each step, ``d`` is the cotangent from the step before plus ``d_ys``::

        d -> d * state_jacobian + [d * jacobian_r, d * jacobian_z, d * jacobian_n] U^T

    Masks and resets need no argument: the Jacobians are 1 and 0 where a state is held, and 0 where
    it is reset.

    Args:
        args: the arrays.
        reverse: whether step T - 1 comes first, as it does if the forward kernel began with step 0.

    Returns:
        ``d`` of each step (T, B, H), and the cotangent of ``h0`` (B, H), both in float32.
    """

    def __call__(self, args: BackwardArgs, *, reverse: bool) -> tuple[Array, Array]: ...


class FusedKernels(NamedTuple):
    """The kernels of a device."""

    forward: ForwardKernel
    backward: BackwardKernel
