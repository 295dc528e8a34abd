"""The plain recurrent network (Elman 1990), a baseline of the gated ones."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gru_jax.cells.base import AffineFn
from gru_jax.cells.linear import add_bias, dot
from gru_jax.cells.packed import PackedCell, init_packed
from gru_jax.typing import Array, DType, Hidden, Initializer, Shape


def init_rnn(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    dtype: DType = jnp.float32,
    bias: bool = True,
    learned_h0: bool = False,
    kernel_init: str | Initializer = "glorot",
    recurrent_kernel_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
) -> "RNNParams":
    """Initialises the parameters of a plain RNN.

    Arguments and errors are those of :func:`gru_jax.init`.
    """
    initializers_of = (kernel_init, recurrent_kernel_init, bias_init)
    params = init_packed(key, (input_size, hidden_size), (0.0,), dtype, bias, initializers_of)
    if learned_h0:
        params["h0"] = jnp.zeros((hidden_size,), dtype)
    return RNNParams(**params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RNNParams(PackedCell):
    """A plain RNN's parameters: ``h' = tanh(x W + h U + b)``.

    Attributes:
        w_x: W, (D, H).
        w_h: U, (H, H).
        b: (H,); None for a model without biases.
        h0: (H,), the learned initial state; None where it is zeros.
    """

    gates: ClassVar[int] = 1
    w_x: Float[Array, "input hidden"]
    w_h: Float[Array, "hidden hidden"]
    b: Float[Array, " hidden"] | None = None
    h0: Float[Array, " hidden"] | None = None

    def validate(self) -> None:
        super().validate()
        self.check_vector("h0", self.h0)

    def initial_state(self, batch_shape: Shape = ()) -> Hidden:
        return self.broadcast_h0(self.h0, batch_shape)

    def project(self, xs: Array) -> Array:
        return add_bias(dot(xs, self.w_x), self.b)

    def combine(self, state: Hidden, projected: Array, affine: AffineFn) -> Hidden:
        (a,) = affine(state, self.w_h, (projected,))
        return jnp.tanh(a)
