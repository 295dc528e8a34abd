"""A convolutional GRU: a custom cell with an image as state."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gru_jax import initializers
from gru_jax.cells import Cell, add_bias, dot

Frame = tuple[int, int]


def init_conv_gru(
    key: jax.Array,
    input_size: int,
    hidden_size: int,
    *,
    frame: Frame,
    kernel: int = 3,
    reset: Literal["after", "before"] = "after",
) -> "ConvGRU":
    """Initialises the parameters of a convolutional GRU; compare :func:`gru_jax.init`.

    Args:
        key: a random key.
        input_size: D, channels of an input.
        hidden_size: H, channels of the state.
        frame: height and width of inputs and state.
        kernel: height and width of the convolutions, odd.
        reset: the equation, see :class:`ConvGRU`.

    Raises:
        ValueError: an even kernel size.
    """
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, got {kernel}")
    key_x, key_h = jax.random.split(key)
    init_x, init_h = (initializers.per_gate(name, 3) for name in ("glorot", "orthogonal"))
    width = 3 * hidden_size
    return ConvGRU(
        w_x=init_x(key_x, (kernel, kernel, input_size, width), jnp.float32),
        w_h=init_h(key_h, (kernel, kernel, hidden_size, width), jnp.float32),
        b=jnp.zeros(width),
        b_hn=jnp.zeros(hidden_size) if reset == "after" else None,
        frame=frame,
        reset=reset,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvGRU(Cell):
    """A GRU with convolutions for matmuls (Ballas et al. 2016, arXiv 1511.06432, section 3).

    With * for a zero-padded convolution, the gates are those of :class:`gru_jax.GRUParams`:
    `r = sigmoid(x * W_r + h * U_r + b_r)`, z is analogous, and n follows either equation. Inputs
    are (*batch, height, width, D), states (*batch, height, width, H).

    Attributes:
        w_x: W, (kernel, kernel, D, 3H); gates are concatenated in the order r, z, n.
        w_h: U, (kernel, kernel, H, 3H).
        b: (3H,).
        b_hn: (H,); None with `reset="before"`.
        frame: height and width.
        reset: the equation.
    """

    num_feature_axes: ClassVar[int] = 3
    w_x: Float[jax.Array, "kernel kernel input gates"]
    w_h: Float[jax.Array, "kernel kernel hidden gates"]
    b: Float[jax.Array, " gates"]
    b_hn: Float[jax.Array, " hidden"] | None
    frame: Frame = dataclasses.field(metadata={"static": True})
    reset: Literal["after", "before"] = dataclasses.field(metadata={"static": True})

    @property
    def input_size(self) -> int:
        return self.w_x.shape[2]

    def initial_state(self, batch_shape: tuple[int, ...] = ()) -> jax.Array:
        return jnp.zeros((*batch_shape, *self.frame, self.w_h.shape[2]))

    def project(self, xs: jax.Array) -> tuple[jax.Array, ...]:
        if xs.shape[-3:-1] != self.frame:
            raise ValueError(f"frames have shape {xs.shape[-3:-1]}, expected {self.frame}")
        gates = add_bias(convolve(xs, self.w_x), self.b)
        return tuple(jnp.split(gates, 3, axis=-1))

    def recur(self, state: jax.Array, projected: tuple[jax.Array, ...]) -> jax.Array:
        h = state
        x_r, x_z, x_n = projected
        if self.reset == "after":
            h_r, h_z, h_n = jnp.split(convolve(h, self.w_h), 3, axis=-1)
            r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
            n = jnp.tanh(x_n + r * add_bias(h_n, self.b_hn))
        else:
            u_rz, u_n = jnp.split(self.w_h, [2 * h.shape[-1]], axis=-1)
            h_r, h_z = jnp.split(convolve(h, u_rz), 2, axis=-1)
            r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
            n = jnp.tanh(x_n + convolve(r * h, u_n))
        return z * h + (1 - z) * n


def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
    """Zero-padded convolution of images (..., height, width, D) with w (kernel, kernel, D, K).

    Computed as one matmul with every pixel's neighbourhood, because XLA:CPU's own convolution is
    slow in the gradient of a loop.

    Returns:
        (..., height, width, K).
    """
    kernel, (height, width) = len(w), x.shape[-3:-1]
    margin = (kernel // 2, kernel // 2)
    padded = jnp.pad(x, [*((0, 0),) * (x.ndim - 3), margin, margin, (0, 0)])
    neighbours = [
        padded[..., row : row + height, column : column + width, :]
        for row in range(kernel)
        for column in range(kernel)
    ]
    return dot(jnp.concatenate(neighbours, axis=-1), w.reshape(-1, w.shape[-1]))
