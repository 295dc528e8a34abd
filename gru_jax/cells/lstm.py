"""The long short-term memory (Hochreiter & Schmidhuber 1997; forget gate by Gers et al. 2000)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gru_jax import _checks, initializers
from gru_jax._repr import repr_with_shapes
from gru_jax.cells.base import AffineFn
from gru_jax.cells.linear import add_bias, dot
from gru_jax.cells.packed import PackedCell, init_packed
from gru_jax.typing import Array, DType, Hidden, Initializer, Shape


def init_lstm(
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
    forget_bias: float | Array = 1.0,
    input_bias: float | Array = 0.0,
    chrono_bias: float | None = None,
) -> "LSTMParams":
    """Initialises the parameters of an LSTM.

    Arguments and errors are those of :func:`gru_jax.init`, but for these:

    Args:
        learned_h0: makes both halves of the initial state parameters.
        forget_bias: added to the forget gate's bias, a number or (H,), one a unit; 1, as
            Jozefowicz et al. (2015) advise.
        input_bias: added to the input gate's bias, a number or (H,).
        chrono_bias: the longest time scale in steps, in place of ``forget_bias`` and
            ``input_bias``: with b from :func:`gru_jax.initializers.chrono_bias`, the forget gate's
            bias is b and the input gate's is -b (Tallec & Ollivier 2018, section 2).

    Raises:
        ValueError: ``chrono_bias`` together with ``forget_bias`` or ``input_bias``, or without a
            bias that it is added to.
    """
    if chrono_bias is not None:
        _checks.not_both("chrono_bias", "forget_bias", forget_bias, 1.0)
        _checks.not_both("chrono_bias", "input_bias", input_bias, 0.0)
        _checks.adds_to_bias("chrono_bias", bias, bias_init)
        longest = _checks.time_scale("chrono_bias", chrono_bias)
        forget_bias = initializers.chrono_bias(longest, hidden_size)
        input_bias = -forget_bias
    input_bias = _checks.scalar_or_per_unit("input_bias", input_bias, hidden_size)
    forget_bias = _checks.scalar_or_per_unit("forget_bias", forget_bias, hidden_size)
    bias_offsets = (input_bias, forget_bias, 0.0, 0.0)
    initializers_of = (kernel_init, recurrent_kernel_init, bias_init)
    sizes = (input_size, hidden_size)
    params = init_packed(key, sizes, bias_offsets, dtype, bias, initializers_of)
    if learned_h0:
        params["h0"] = jnp.zeros((hidden_size,), dtype)
        params["c0"] = jnp.zeros((hidden_size,), dtype)
    return LSTMParams(**params)


class LSTMState(NamedTuple):
    """An LSTM's state: the output ``h`` and the cell state ``c``, both (*batch, H).

    Flax's LSTM carry is ``(c, h)``, in the other order.
    """

    h: Array
    c: Array

    # As those of parameters: a tuple would compare arrays, whose truth is ambiguous.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__
    __repr__ = repr_with_shapes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LSTMParams(PackedCell):
    """An LSTM's parameters; gates are concatenated in the order i, f, g, o, as in PyTorch.

    ::

        i = sigmoid(x W_i + h U_i + b_i)        c' = f * c + i * g
        f = sigmoid(x W_f + h U_f + b_f)        h' = o * tanh(c')
        g = tanh(x W_g + h U_g + b_g)
        o = sigmoid(x W_o + h U_o + b_o)

    Attributes:
        w_x: W, (D, 4H).
        w_h: U, (H, 4H).
        b: (4H,); None for a model without biases.
        h0: (H,), the learned initial ``h``; None where it is zeros.
        c0: (H,), the learned initial ``c``; None where it is zeros.
    """

    gates: ClassVar[int] = 4
    w_x: Float[Array, "input gates"]
    w_h: Float[Array, "hidden gates"]
    b: Float[Array, " gates"] | None = None
    h0: Float[Array, " hidden"] | None = None
    c0: Float[Array, " hidden"] | None = None

    def validate(self) -> None:
        super().validate()
        self.check_vector("h0", self.h0)
        self.check_vector("c0", self.c0)

    def initial_state(self, batch_shape: Shape = ()) -> LSTMState:
        h, c = (self.broadcast_h0(leaf, batch_shape) for leaf in (self.h0, self.c0))
        return LSTMState(h, c)

    def project(self, xs: Array) -> tuple[Array, Array, Array, Array]:
        i, f, g, o = jnp.split(add_bias(dot(xs, self.w_x), self.b), 4, axis=-1)
        return i, f, g, o

    def combine(
        self, state: LSTMState, projected: tuple[Array, Array, Array, Array], affine: AffineFn
    ) -> LSTMState:
        i, f, g, o = affine(state.h, self.w_h, projected)
        i, f, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o)
        c = f * state.c + i * jnp.tanh(g)
        return LSTMState(h=o * jnp.tanh(c), c=c)

    def output(self, state: LSTMState) -> Hidden:
        return state.h
