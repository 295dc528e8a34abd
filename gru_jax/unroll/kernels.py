"""What a device's fused kernels are: two functions, here in plain JAX, and what makes them behave.

A device brings a pair like :data:`REFERENCE`, which computes what the reference computes, and says
what it serves. All else (flags, directions, gradients of parameters and inputs, transformations) is
done around it, once: :mod:`gru_jax.unroll.fused` runs a GRU with a pair that went through
:func:`transformable`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from gru_jax.cells.base import affine, dot
from gru_jax.cells.gru import combine_reset_after
from gru_jax.typing import Array, DType
from gru_jax.unroll.control import select

Gates = tuple[Array, Array, Array]
"""One array (T, B, H) for each of the gates r, z, n."""


class Forward(Protocol):
    """The states of a GRU with ``reset="after"``, whose inputs are already projected.

    At each step, in this order: where it resets, the state becomes ``initial``; where it is
    valid, ``combine_reset_after`` moves it on; elsewhere it stays as it is, bit for bit.

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
        new = combine_reset_after(h, projected, w_h, b_hn, affine)
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


def transformable(kernels: Kernels, platform: str | None = None) -> Kernels:
    """A pair that can be differentiated and mapped, and runs on any platform.

    - Derivatives of any order are those of the reference.
    - Under :func:`jax.vmap`, what is mapped joins the batch; where weights are mapped, too, it is
      the reference that runs.
    - With a ``platform``, the pair runs where the program does on it, and the reference
      elsewhere. That is known only when a program is lowered, which may be for several.
    """

    def behave(
        kernel: Callable[..., Any],
        reference: Callable[..., Any],
        time_major: tuple[bool | None, ...],
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            plain = functools.partial(reference, **options)
            device = functools.partial(kernel, **options)
            if platform is not None:
                choices = {platform: device}
                device = functools.partial(_by_platform, choices=choices, default=plain)

            return _with_derivative(_with_batching(device, plain, time_major), plain)(*arguments)

        return call

    #        projected, w_h,  b_hn, start, initial, valid, resets
    forward = (True, None, None, False, False, True, True)
    #        d_states, through, slopes, u_transposed, d_last
    backward = (True, True, True, None, False)
    return Kernels(
        behave(kernels.forward, REFERENCE.forward, forward),
        behave(kernels.backward, REFERENCE.backward, backward),
    )


def _by_platform(*arguments: Any, choices: dict[str, Any], default: Callable[..., Any]) -> Any:
    return lax.platform_dependent(*arguments, default=default, **choices)


def _with_derivative(
    kernel: Callable[..., Any], reference: Callable[..., Any]
) -> Callable[..., Any]:
    """``kernel`` with the derivative of ``reference``."""
    function = jax.custom_jvp(kernel)

    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        return function(*primals), jax.jvp(reference, primals, tangents)[1]

    function.defjvp(rule)
    return function


def _with_batching(
    kernel: Callable[..., Any],
    reference: Callable[..., Any],
    time_major: tuple[bool | None, ...],
) -> Callable[..., Any]:
    """``kernel`` mapped by joining a mapped axis to the batch, ``reference`` where that cannot be.

    Args:
        kernel, reference: one function of arrays; ``-> (T, B, H), (B, H)``.
        time_major: of each argument, whether it is (T, B, ...), or (B, ...); None where it has
            no batch.
    """
    function = jax.custom_batching.custom_vmap(kernel)

    @function.def_vmap
    def rule(size: int, is_mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        outputs = (True, True)
        shared = [
            not any(jax.tree.leaves(mapped))
            for mapped, batch in zip(is_mapped, time_major, strict=True)
            if batch is None
        ]
        if not all(shared):
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, is_mapped)
            return jax.vmap(reference, axes, axis_size=size)(*arguments), outputs

        def join(array: Array, mapped: bool, axis: int) -> Array:
            if not mapped:
                array = jnp.broadcast_to(array, (size, *array.shape))
            array = jnp.moveaxis(array, 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def part(array: Array, axis: int) -> Array:
            parted = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(parted, axis, 0)

        joined = [
            argument
            if batch is None
            else jax.tree.map(functools.partial(join, axis=int(batch)), argument, mapped)
            for argument, mapped, batch in zip(arguments, is_mapped, time_major, strict=True)
        ]
        steps, last = function(*joined)
        return (part(steps, 1), part(last, 0)), outputs

    return function
