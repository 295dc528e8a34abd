"""Reference of the one-block kernels in plain JAX, in the dtype of the weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.fused.interface import RESET, VALID
from gru_jax._unroll.fused.one_block.interface import (
    RESIDUAL_DTYPE,
    BackwardArgs,
    BackwardResult,
    ForwardArgs,
    ForwardResult,
)
from gru_jax._unroll.masking import tree_where
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.cells.linear import affine, dot
from gru_jax.typing import Array, DType


def forward(args: ForwardArgs, *, dtype: DType, save: bool) -> ForwardResult:
    """Computes :class:`~gru_jax._unroll.fused.one_block.interface.ForwardResult`."""

    def one_copy(args: ForwardArgs) -> ForwardResult:
        def body(h: Array, step: Any) -> tuple[Array, tuple[Array, Array | None]]:
            projected, bits = step
            if bits is not None:
                h = tree_where(bits & RESET != 0, args.reset_state, h)
            x_r, x_z, x_n = jnp.split(projected, 3, axis=-1)
            new = gru_step_reset_after(h, (x_r, x_z, x_n), args.w_h, args.b_hn, affine)
            saved = None
            if save:
                a_r, a_z, h_n = affine(h, args.w_h, (x_r, x_z, args.b_hn))
                a_n = x_n + jax.nn.sigmoid(a_r) * h_n
                largest = float(jnp.finfo(RESIDUAL_DTYPE).max)
                h_n = jnp.clip(h_n, -largest, largest)
                saved = jnp.concatenate([a_r, a_z, a_n, h_n], axis=-1).astype(RESIDUAL_DTYPE)
            if bits is not None:
                new = tree_where(bits & VALID != 0, new, h)
            return new, (new.astype(dtype), saved)

        # A reset puts the same state into every sequence.
        reset_state = jnp.broadcast_to(args.reset_state, args.h0.shape)
        args = args._replace(reset_state=reset_state)
        scanned = (args.projected, args.flags)
        h_last, (states, saved) = _scan(body, args.h0, scanned, args.reverse)
        return ForwardResult(states, h_last, saved)

    return jax.vmap(one_copy)(args)


def backward(args: BackwardArgs) -> BackwardResult:
    """Computes :class:`~gru_jax._unroll.fused.one_block.interface.BackwardResult`."""

    def one_copy(args: BackwardArgs) -> BackwardResult:
        def body(carry: tuple[Array, Array | None], step: Any) -> tuple[Any, Array]:
            d, d_reset = carry
            d_y, h, saved, bits = step
            # Selected by `where`, so that what stands at other steps, NaN included, has no effect.
            if bits is not None:
                d_y = tree_where(bits & VALID != 0, d_y, jnp.zeros_like(d_y))
            d = d + d_y.astype(d.dtype)
            a_r, a_z, a_n, h_n = jnp.split(saved.astype(d.dtype), 4, axis=-1)
            r, z, n = jax.nn.sigmoid(a_r), jax.nn.sigmoid(a_z), jnp.tanh(a_n)
            d_a_n = d * (1 - z) * (1 - n * n)
            d_a_z = d * (h.astype(d.dtype) - n) * z * (1 - z)
            d_a_r = d_a_n * h_n * r * (1 - r)
            d_h_n, d_past = d_a_n * r, d * z
            parts = (d_a_r, d_a_z, d_a_n, d_h_n)
            if bits is not None:
                valid = bits & VALID != 0
                parts = tree_where(valid, parts, jax.tree.map(jnp.zeros_like, parts))
                d_past = tree_where(valid, d_past, d)
            d_a_r, d_a_z, d_a_n, d_h_n = parts
            d = d_past + dot(jnp.concatenate([d_a_r, d_a_z, d_h_n], axis=-1), args.w_h.T)
            if bits is not None and d_reset is not None:
                resets = bits & RESET != 0
                d_reset = d_reset + tree_where(resets, d, jnp.zeros_like(d))
                d = tree_where(resets, jnp.zeros_like(d), d)
            return (d, d_reset), jnp.concatenate(parts, axis=-1).astype(d_y.dtype)

        d_reset = None if args.flags is None else jnp.zeros_like(args.d_h_last)
        scanned = (args.d_ys, args.states_before, args.preactivations, args.flags)
        (d_h0, d_reset), d_preactivations = _scan(
            body, (args.d_h_last, d_reset), scanned, 1 - args.reverse
        )
        return BackwardResult(d_preactivations, d_h0, d_reset)

    return jax.vmap(one_copy)(args)


def _scan(body: Callable[..., Any], carry: Any, xs: Any, reverse: Array) -> tuple[Any, Any]:
    """``lax.scan``, in a direction that is an array: 1 for the last step first, otherwise 0."""
    steps = jnp.arange(jax.tree.leaves(xs)[0].shape[0])
    order = jnp.where(reverse, steps[::-1], steps)

    def take(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[order], tree)

    carry, ys = lax.scan(body, carry, take(xs))
    # Either order is its own inverse.
    return carry, take(ys)
