"""What a device's fused kernels are: two functions, given here in plain JAX.

A device brings a pair that computes what :data:`REFERENCE` does, and says what it serves. All else
is done around it, once: :func:`gru_jax._unroll.transform_rules.transformable` makes the pair obey
JAX's transformations, and :func:`gru_jax._unroll.fused.run.run` runs a GRU with it.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import lax

from gru_jax._unroll.masking import select
from gru_jax.cells.base import affine, dot
from gru_jax.cells.gru import gru_step_reset_after
from gru_jax.typing import Array, DType

Gates = tuple[Array, Array, Array]
"""One array (T, B, H) for each of the gates r, z, n."""


@runtime_checkable
class Forward(Protocol):
    """The states of a GRU with ``reset="after"``, whose inputs are already projected.

    At each step, in this order: where it resets, the state becomes ``initial``; where it is
    valid, ``gru_step_reset_after`` moves it on; elsewhere it stays as it is, bit for bit.

    Args:
        projected: ``x W_r + b_r`` and so on, (T, B, H) each, float32; T and B are 1 or more.
        w_h: U, (H, 3H), gates in the order r, z, n; in the dtype that products run in.
        b_hn: (H,), float32; zeros for a model without biases.
        start: (B, H), float32, the state ahead of the step that is read first. It is carried on,
            and gates are computed, in float32; only a product's operand is rounded.
        initial: (B, H), float32.
        valid: (T, B) booleans, or None where all steps are.
        resets: (T, B) booleans, or None where there are none.
        reverse: whether step T - 1 is read first.
        dtype: of the states that are handed out.

    Returns:
        The state after each step (T, B, H) in ``dtype``, and the one after the step that was read
        last (B, H), float32.
    """

    def __call__(
        self,
        projected: Gates,
        w_h: Array,
        b_hn: Array,
        start: Array,
        initial: Array,
        valid: Array | None,
        resets: Array | None,
        *,
        reverse: bool,
        dtype: DType,
    ) -> tuple[Array, Array]: ...


@runtime_checkable
class Backward(Protocol):
    """The cotangents of the states of a GRU: a recurrence linear in them.

    At each step, ``d`` being what came from the step walked before, plus ``d_states``::

        d -> d * through + [d * slope_r, d * slope_z, d * slope_n] U^T

    Flags need no care: coefficients are 1 and 0 where a state is held, and 0 where it is replaced.

    Args:
        d_states: (T, B, H), float32, what reaches each state from its own output.
        through: (T, B, H), float32, the derivative past the products.
        slopes: (T, B, H) each, the derivatives by way of the products' sums, in the dtype that
            products run in.
        u_transposed: U^T, (3H, H), in that dtype.
        d_last: (B, H), float32, what reaches the state that was computed last from beyond.
        reverse: whether step T - 1 is walked first (it is where the way forward began with step 0).

    Returns:
        ``d`` of each step (T, B, H), float32, and what is left after the step walked last (B, H),
        float32, the cotangent of ``start``.
    """

    def __call__(
        self,
        d_states: Array,
        through: Array,
        slopes: Gates,
        u_transposed: Array,
        d_last: Array,
        *,
        reverse: bool,
    ) -> tuple[Array, Array]: ...


class Kernels(NamedTuple):
    """A device's pair."""

    forward: Forward
    backward: Backward


def _forward(
    projected: Gates,
    w_h: Array,
    b_hn: Array,
    start: Array,
    initial: Array,
    valid: Array | None,
    resets: Array | None,
    *,
    reverse: bool,
    dtype: DType,
) -> tuple[Array, Array]:
    def body(h: Array, step: Any) -> tuple[Array, Array]:
        projected, valid, reset = step
        if reset is not None:
            h = select(reset, initial, h)
        new = gru_step_reset_after(h, projected, w_h, b_hn, affine)
        h = new if valid is None else select(valid, new, h)
        return h, h.astype(dtype)

    last, states = lax.scan(body, start, (projected, valid, resets), reverse=reverse)
    return states, last


def _backward(
    d_states: Array,
    through: Array,
    slopes: Gates,
    u_transposed: Array,
    d_last: Array,
    *,
    reverse: bool,
) -> tuple[Array, Array]:
    def body(d: Array, step: tuple[Array, Array, Gates]) -> tuple[Array, Array]:
        d_state, through, slopes = step
        d = d + d_state
        d_sums = jnp.concatenate([d * slope.astype(d.dtype) for slope in slopes], axis=-1)
        return d * through + dot(d_sums, u_transposed), d

    d_start, d = lax.scan(body, d_last, (d_states, through, slopes), reverse=reverse)
    return d, d_start


REFERENCE = Kernels(_forward, _backward)
"""What a pair has to compute."""
