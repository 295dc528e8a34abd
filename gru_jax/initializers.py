"""Initial values of a cell's parameters, drawn gate by gate."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gru_jax import _checks
from gru_jax.typing import Array, DType, Initializer, Shape


def per_gate(
    initializer: str | Initializer, gates: int, *, name: str = "initializer"
) -> Initializer:
    """Makes an initialiser of packed parameters (..., gates * H) that draws each gate by itself.

    A gate's block is what the schemes are about: fan-in and fan-out of the joint matrix would
    give a third of glorot's variance, and a jointly orthogonal (H, 3H) has gates that are not.

    Args:
        initializer: ``"glorot"`` (uniform; Glorot & Bengio 2010), ``"lecun"`` (normal, variance
            1 / fan-in; LeCun 1998), ``"orthogonal"`` (Saxe et al. 2014), ``"torch"`` (uniform
            within ±1/sqrt(H), PyTorch's default for all parameters of an RNN; PyTorch adds two
            such draws for the biases of a gate, this is one), ``"zeros"``, or a callable
            ``(key, shape, dtype)``, which is handed the packed shape and trusted with it.
        gates: how many gates lie side by side in the last axis.
        name: what the error calls the argument.

    Returns:
        ``(key, packed_shape, dtype) -> array``. Draws are made in float32 at least and rounded
        to ``dtype``, so that bfloat16 parameters can be orthogonal.

    Raises:
        ValueError: the name of the scheme is unknown.
        TypeError: neither a name nor a callable.
    """
    if callable(initializer):
        return initializer
    if not isinstance(initializer, str):
        raise TypeError(
            f"{name} must be a scheme's name or a callable (key, shape, dtype), got {initializer!r}"
        )
    _checks.one_of(name, initializer, SCHEMES)
    draw_gate = SCHEMES[initializer]

    def draw(key: Array, shape: Shape, dtype: DType) -> Array:
        gate_shape = (*shape[:-1], shape[-1] // gates)
        wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        drawn = [draw_gate(k, gate_shape, wide) for k in jax.random.split(key, gates)]
        return jnp.concatenate(drawn, axis=-1).astype(dtype)

    return draw


def bias(initializer: str | Initializer, offsets: Sequence[float | Array]) -> Initializer:
    """Makes an initialiser of packed biases (gates * H), with something added to each gate.

    Args:
        initializer: ``"zeros"``, ``"torch"`` or a callable, as for :func:`per_gate`.
        offsets: what is added to each gate's biases: a number, or (H,), one a unit. A callable
            says it all itself: nothing is added to what it draws.

    Raises:
        ValueError: an unknown scheme.
    """
    if callable(initializer):
        return initializer
    _checks.one_of("bias_init", initializer, ("zeros", "torch"))
    init_packed = per_gate(initializer, len(offsets), name="bias_init")

    def draw(key: Array, shape: Shape, dtype: DType) -> Array:
        hidden = (shape[-1] // len(offsets),)
        added = [jnp.broadcast_to(jnp.asarray(offset, dtype), hidden) for offset in offsets]
        return init_packed(key, shape, dtype) + jnp.concatenate(added)

    return draw


def chrono_bias(longest: float, hidden_size: int) -> Array:
    """Returns biases of a gate that keeps the state which give units memories of all lengths.

    A gate that is open to ``sigmoid(b)`` forgets over ``1 / (1 - sigmoid(b)) = 1 + exp(b)`` steps
    (Tallec & Ollivier 2018, arXiv 1804.11188, section 2, who draw these times uniformly; here
    their logarithms are evenly spaced, so that short ones are as frequent as long ones). For
    ``update_bias`` of :func:`gru_jax.init` and ``forget_bias`` of :func:`gru_jax.init_lstm`.

    Args:
        longest: of the times, in steps; the shortest is 2.
        hidden_size: H.

    Returns:
        (H,) float32, rising.

    Raises:
        ValueError: ``longest`` is less than 2, or the size is not positive.
    """
    if not longest >= 2:
        raise ValueError(f"longest must be 2 steps or more, got {longest}")
    times = jnp.geomspace(2.0, longest, _checks.positive_int("hidden_size", hidden_size))
    return jnp.log(times - 1).astype(jnp.float32)


def _torch_uniform(key: Array, shape: Shape, dtype: DType) -> Array:
    bound = 1 / math.sqrt(shape[-1])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


SCHEMES: dict[str, Initializer] = {
    "glorot": jax.nn.initializers.glorot_uniform(),
    "lecun": jax.nn.initializers.lecun_normal(),
    "orthogonal": jax.nn.initializers.orthogonal(),
    "torch": _torch_uniform,
    "zeros": jax.nn.initializers.zeros,
}
