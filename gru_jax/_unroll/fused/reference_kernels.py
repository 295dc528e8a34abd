"""Reference of the fused kernels in plain JAX."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.fused.interface import (
    BACKWARD_BATCH_AXES,
    FORWARD_BATCH_AXES,
    BackwardArgs,
    ForwardArgs,
    FusedKernels,
)
from gru_jax._unroll.fused.transforms import KernelInterface
from gru_jax._unroll.masking import tree_where
from gru_jax.cells.gru import Gates, gru_step_reset_after
from gru_jax.cells.linear import affine, dot
from gru_jax.typing import Array, DType


def _forward(args: ForwardArgs, *, reverse: bool, dtype: DType) -> tuple[Array, Array]:
    def body(h: Array, step: Any) -> tuple[Array, Array]:
        projected, valid, reset = step
        if reset is not None:
            h = tree_where(reset, args.reset_state, h)
        new = gru_step_reset_after(h, projected, args.w_h, args.b_hn, affine)
        h = new if valid is None else tree_where(valid, new, h)
        return h, h.astype(dtype)

    scanned = (args.projected, args.valid, args.resets)
    h_last, states = lax.scan(body, args.h0, scanned, reverse=reverse)
    return states, h_last


def _backward(args: BackwardArgs, *, reverse: bool) -> tuple[Array, Array]:
    def body(d: Array, step: tuple[Array, Array, Gates]) -> tuple[Array, Array]:
        d_y, state_jacobian, gate_jacobians = step
        d = d + d_y
        d_preactivations = jnp.concatenate(
            [d * jacobian.astype(d.dtype) for jacobian in gate_jacobians], axis=-1
        )
        return d * state_jacobian + dot(d_preactivations, args.w_h_t), d

    scanned = (args.d_ys, args.state_jacobian, args.gate_jacobians)
    d_h0, d = lax.scan(body, args.d_h_last, scanned, reverse=reverse)
    return d, d_h0


REFERENCE_KERNELS = FusedKernels(_forward, _backward)
"""What the kernels of every device have to compute."""

INTERFACE = KernelInterface(
    REFERENCE_KERNELS,
    ((FORWARD_BATCH_AXES, (1, 0)), (BACKWARD_BATCH_AXES, (1, 0))),
    has_copies=False,
)
"""How JAX transforms kernels for Hopper and TPU."""
