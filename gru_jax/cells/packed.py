"""What cells with concatenated gates have in common."""

from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from gru_jax import _checks, initializers
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import accum_dtype
from gru_jax.typing import Array, DType, Initializer, Shape


class PackedCell(AffineCell):
    """A cell with ``w_x (D, gates * H)``, ``w_h (H, gates * H)`` and ``b (gates * H,)`` or None."""

    gates: ClassVar[int]
    w_x: Array
    w_h: Array
    b: Array | None

    @property
    def input_size(self) -> int:
        """D, features of an input."""
        return self.w_x.shape[0]

    @property
    def hidden_size(self) -> int:
        """H, features of the state."""
        return self.w_h.shape[0]

    def validate(self) -> None:
        packed = f"{self.gates} * hidden" if self.gates > 1 else "hidden"
        w_h = _checks.parameter("w_h", self.w_h, (None, None), f"(hidden, {packed})")
        hidden = w_h.shape[0]
        width = self.gates * hidden
        _checks.parameter("w_h", w_h, (hidden, width), f"(hidden, {packed})")
        _checks.parameter("w_x", self.w_x, (None, width), f"(input, {packed})")
        if self.b is not None:
            _checks.parameter("b", self.b, (width,), f"({packed},)")

    def check_vector(self, name: str, value: Array | None) -> None:
        """Raises unless ``value`` is None or has shape (H,)."""
        if value is not None:
            _checks.parameter(name, value, (self.hidden_size,), "(hidden,)")

    def broadcast_h0(self, value: Array | None, batch_shape: Shape) -> Array:
        """A state (*batch, H): ``value`` where it is learned, zeros otherwise."""
        shape = (*batch_shape, self.hidden_size)
        dtype = accum_dtype(self.w_h.dtype)
        if value is None:
            return jnp.zeros(shape, dtype)
        return jnp.broadcast_to(value.astype(dtype), shape)


def init_packed(
    key: Array,
    sizes: tuple[int, int],
    bias_offsets: Sequence[float | Array],
    dtype: DType,
    bias: bool,
    initializers_of: Sequence[str | Initializer],
) -> dict[str, Array]:
    """Initialises ``w_x``, ``w_h`` and, with ``bias``, ``b``; one gate per bias offset.

    ``sizes`` are D and H; the initialisers are those of ``w_x``, ``w_h`` and ``b``.
    """
    kernel_init, recurrent_kernel_init, bias_init = initializers_of
    _checks.random_key("key", key)
    inputs = _checks.positive_int("input_size", sizes[0])
    hidden = _checks.positive_int("hidden_size", sizes[1])
    dtype = _checks.floating_dtype("dtype", dtype)
    gates = len(bias_offsets)
    init_w_x = initializers.per_gate(kernel_init, gates, name="kernel_init")
    init_w_h = initializers.per_gate(recurrent_kernel_init, gates, name="recurrent_kernel_init")
    init_b = initializers.bias(bias_init, bias_offsets)

    key_x, key_h, key_b = jax.random.split(key, 3)
    params = {
        "w_x": init_w_x(key_x, (inputs, gates * hidden), dtype),
        "w_h": init_w_h(key_h, (hidden, gates * hidden), dtype),
    }
    if bias:
        params["b"] = init_b(key_b, (gates * hidden,), dtype)
    return params
