"""Initialisers of packed parameters, applied to one gate at a time."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax import _checks
from gru_jax.typing import Array, DType, Initializer, Shape


def per_gate(
    initializer: str | Initializer, gates: int, *, name: str = "initializer"
) -> Initializer:
    """Makes an initialiser of packed parameters (..., gates * H) that initialises gate by gate.

    The schemes apply to the matrix of one gate. The fan-in and fan-out of the packed matrix would
    give a third of glorot's variance, and the gates of an orthogonal (H, 3H) are not orthogonal.

    Args:
        initializer: ``"glorot"`` (uniform; Glorot & Bengio 2010), ``"lecun"`` (normal, variance
            1 / fan-in; LeCun 1998), ``"orthogonal"`` (Saxe et al. 2014), ``"torch"`` (uniform
            within ±1/sqrt(H), PyTorch's default for all parameters of an RNN; PyTorch adds two
            such samples for the biases of a gate, this is one), ``"zeros"``, or a callable
            ``(key, shape, dtype) -> array`` as in :mod:`jax.nn.initializers`. A callable is
            called once per gate, each time with another key and the shape (..., H) of one gate's
            matrix: (D, H) for ``w_x``, (H, H) for ``w_h``.
        gates: number of gates concatenated along the last axis.
        name: the argument's name in error messages.

    Returns:
        ``(key, packed_shape, dtype) -> array``. Values are sampled in float32 at least and rounded
        to ``dtype``, so that bfloat16 parameters can be orthogonal. It raises ``ValueError`` if a
        callable returns an array of another shape.

    Raises:
        ValueError: the name of the scheme is unknown.
        TypeError: neither a name nor a callable.
    """
    if callable(initializer):
        init_gate = initializer
    elif isinstance(initializer, str):
        _checks.one_of(name, initializer, SCHEMES)
        init_gate = SCHEMES[initializer]
    else:
        raise TypeError(
            f"{name} must be a scheme's name or a callable (key, shape, dtype), got {initializer!r}"
        )

    def init_gates(key: Array, shape: Shape, dtype: DType) -> Array:
        gate_shape = (*shape[:-1], shape[-1] // gates)
        wide = dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
        values = [init_gate(k, gate_shape, wide) for k in jax.random.split(key, gates)]
        arrays, reboxes = zip(*(_unbox(name, value, gate_shape) for value in values), strict=True)
        return reboxes[0](jnp.concatenate(arrays, axis=-1).astype(dtype))

    return init_gates


def bias(initializer: str | Initializer, offsets: Sequence[float | Array]) -> Initializer:
    """Makes an initialiser of packed biases (gates * H) that adds an offset to each gate.

    Args:
        initializer: ``"zeros"``, ``"torch"``, or a callable ``(key, shape, dtype) -> array``. A
            callable is called once with the packed shape (gates * H,), so that it can give each
            gate other biases, and no offset is added to its result.
        offsets: what is added to each gate's biases: a number or (H,).

    Returns:
        ``(key, packed_shape, dtype) -> array``. It raises ``ValueError`` if a callable returns an
        array of another shape.

    Raises:
        ValueError: an unknown scheme.
    """
    if callable(initializer):

        def init_and_check(key: Array, shape: Shape, dtype: DType) -> Array:
            value = initializer(key, shape, dtype)
            _unbox("bias_init", value, shape)
            return value

        return init_and_check
    _checks.one_of("bias_init", initializer, ("zeros", "torch"))
    init_packed = per_gate(initializer, len(offsets), name="bias_init")

    def init_with_offsets(key: Array, shape: Shape, dtype: DType) -> Array:
        hidden = (shape[-1] // len(offsets),)
        added = [jnp.broadcast_to(jnp.asarray(offset, dtype), hidden) for offset in offsets]
        return init_packed(key, shape, dtype) + jnp.concatenate(added)

    return init_with_offsets


def chrono_bias(longest: float, hidden_size: int) -> Array:
    """Returns gate biases that give the units memories of all lengths (chrono initialisation).

    A gate at ``sigmoid(b)`` forgets over ``T = 1 / (1 - sigmoid(b)) = 1 + exp(b)`` steps (Tallec &
    Ollivier 2018, arXiv 1804.11188, section 2). They sample ``T - 1`` uniformly from 1 to
    ``longest - 1``. Here the times T are evenly spaced on a logarithmic scale, so that short times
    are as frequent as long ones.

    These are the biases of the gates that keep the state. An LSTM's input gate has their negative.
    The argument ``chrono_bias`` of :func:`gru_jax.init` and :func:`gru_jax.init_lstm` sets all
    biases of the initialisation.

    Args:
        longest: the longest time in steps; the shortest is 2.
        hidden_size: H.

    Returns:
        (H,) float32, increasing.

    Raises:
        TypeError: ``longest`` is not a number, or the size is not an integer.
        ValueError: ``longest`` is less than 2 or infinite, or the size is not positive.
    """
    longest = _checks.time_scale("longest", longest)
    times = jnp.geomspace(2.0, longest, _checks.positive_int("hidden_size", hidden_size))
    return jnp.log(times - 1).astype(jnp.float32)


def _unbox(name: str, value: Any, shape: Shape) -> tuple[Array, Callable[[Array], Any]]:
    """Returns an initialiser's array, and a function that puts an array into the same box.

    Flax's ``with_partitioning`` makes initialisers that return boxes of an array and its
    annotations: a pytree in Linen, a dataclass with a field ``raw_value`` in NNX.

    Raises:
        ValueError: ``value`` is neither an array of this shape nor a box of one.
    """
    if hasattr(value, "raw_value"):
        leaves = [value.raw_value]

        def rebox(array: Array) -> Any:
            return dataclasses.replace(value, raw_value=array)
    else:
        leaves, treedef = jax.tree.flatten(value)

        def rebox(array: Array) -> Any:
            return treedef.unflatten([array])

    shapes = [getattr(leaf, "shape", None) for leaf in leaves]
    if shapes != [shape]:
        got = shapes[0] if len(shapes) == 1 and shapes[0] is not None else type(value).__name__
        raise ValueError(f"{name} must return an array of shape {shape}, got {got}")
    return leaves[0], rebox


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
