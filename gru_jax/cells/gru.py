"""The gated recurrent unit (Cho et al. 2014): its parameters and its equations."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from gru_jax import _checks, initializers
from gru_jax.cells.base import AffineFn
from gru_jax.cells.linear import add_bias, dot
from gru_jax.cells.packed import PackedCell, init_packed
from gru_jax.typing import Array, DType, Hidden, Initializer, Shape

Reset = Literal["after", "before"]
Gates = tuple[Array, Array, Array]


def init(
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    reset: Reset = "after",
    dtype: DType = jnp.float32,
    bias: bool = True,
    learned_h0: bool = False,
    kernel_init: str | Initializer = "glorot",
    recurrent_kernel_init: str | Initializer = "orthogonal",
    bias_init: str | Initializer = "zeros",
    update_bias: float | Array = 0.0,
    chrono_bias: float | None = None,
) -> "GRUParams":
    """Initialises the parameters of a GRU.

    Args:
        key: a random key.
        input_size: D, features of an input.
        hidden_size: H, features of the state; positive, because the initialisers of the oldest
            supported JAX divide by it.
        reset: which equation, see :class:`GRUParams`.
        dtype: of all parameters; bfloat16 and float16 too.
        bias: whether there are biases.
        learned_h0: whether the initial state is a parameter (it starts at zero).
        kernel_init: initialiser of ``w_x``; a name from :func:`gru_jax.initializers.per_gate`, or
            a callable ``(key, shape, dtype)``, called once per gate with shape (D, H).
        recurrent_kernel_init: the same for ``w_h``, with shape (H, H).
        bias_init: of ``b`` and ``b_hn``: ``"zeros"``, ``"torch"`` or a callable, called with the
            packed shape (3H,), and with (H,) for ``b_hn``.
        update_bias: added to the update gate's bias, a number or (H,), one a unit. Above zero the
            state is held for longer at the start of training, as a positive forget bias does in
            an LSTM (Jozefowicz et al. 2015). Nothing is added to the result of a callable
            ``bias_init``, or with ``bias=False``.
        chrono_bias: the longest time scale in steps, in place of ``update_bias``: the update
            gate's bias is then :func:`gru_jax.initializers.chrono_bias`, which gives units
            memories of all lengths from 2 steps to this one (Tallec & Ollivier 2018).

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a size that is not positive, an unknown option or initialiser, both
            ``update_bias`` and ``chrono_bias``, or a ``chrono_bias`` below 2 steps or without a
            bias that it is added to.
    """
    _checks.one_of("reset", reset, ("after", "before"))
    if chrono_bias is not None:
        _checks.not_both("chrono_bias", "update_bias", update_bias, 0.0)
        _checks.adds_to_bias("chrono_bias", bias, bias_init)
        longest = _checks.time_scale("chrono_bias", chrono_bias)
        update_bias = initializers.chrono_bias(longest, hidden_size)
    update_bias = _checks.scalar_or_per_unit("update_bias", update_bias, hidden_size)
    initializers_of = (kernel_init, recurrent_kernel_init, bias_init)
    sizes = (input_size, hidden_size)
    params = init_packed(key, sizes, (0.0, update_bias, 0.0), dtype, bias, initializers_of)
    if bias and reset == "after":
        init_b_hn = initializers.bias(bias_init, (0.0,))
        params["b_hn"] = init_b_hn(jax.random.fold_in(key, 1), (hidden_size,), dtype)
    if learned_h0:
        params["h0"] = jnp.zeros((hidden_size,), dtype)
    return GRUParams(**params, reset=reset)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GRUParams(PackedCell):
    """A GRU's parameters; gates are concatenated in the order r (reset), z (update), n (new).

    With ``reset="after"`` (as cuDNN, PyTorch and Keras have it)::

        r  = sigmoid(x W_r + h U_r + b_r)
        z  = sigmoid(x W_z + h U_z + b_z)
        n  = tanh(x W_n + b_n + r * (h U_n + b_hn))
        h' = n + z * (h - n)

    With ``reset="before"`` (Cho et al. 2014, arXiv 1406.1078, equations 5 to 8)::

        n  = tanh(x W_n + b_n + (r * h) U_n)

    Attributes:
        w_x: W, (D, 3H).
        w_h: U, (H, 3H).
        b: (3H,); None for a model without biases.
        b_hn: (H,); None without biases and with ``reset="before"``, which has no such term.
        h0: (H,), the learned initial state; None where it is zeros.
        reset: which equation the parameters obey. It is static: part of the tree's structure,
            so that parameters are never run through the other equation.
    """

    gates: ClassVar[int] = 3
    w_x: Float[Array, "input gates"]
    w_h: Float[Array, "hidden gates"]
    b: Float[Array, " gates"] | None = None
    b_hn: Float[Array, " hidden"] | None = None
    h0: Float[Array, " hidden"] | None = None
    reset: Reset = dataclasses.field(default="after", metadata={"static": True})

    def validate(self) -> None:
        super().validate()
        _checks.one_of("reset", self.reset, ("after", "before"))
        if self.reset == "before" and self.b_hn is not None:
            raise ValueError('b_hn must be None with reset="before", whose equation has none')
        self.check_vector("b_hn", self.b_hn)
        self.check_vector("h0", self.h0)

    def initial_state(self, batch_shape: Shape = ()) -> Hidden:
        return self.broadcast_h0(self.h0, batch_shape)

    def project(self, xs: Array) -> Gates:
        # Three arrays, not a packed one: XLA:CPU does not vectorise gates that are sliced from a
        # packed array inside the loop.
        r, z, n = jnp.split(add_bias(dot(xs, self.w_x), self.b), 3, axis=-1)
        return r, z, n

    def combine(self, state: Hidden, projected: Gates, affine: AffineFn) -> Hidden:
        if self.reset == "after":
            return gru_step_reset_after(state, projected, self.w_h, self.b_hn, affine)
        h = state
        x_r, x_z, x_n = projected
        u_rz, u_n = jnp.split(self.w_h, [2 * self.hidden_size], axis=-1)
        r, z = affine(h, u_rz, (x_r, x_z))
        r, z = jax.nn.sigmoid(r), jax.nn.sigmoid(z)
        (n,) = affine(r * h, u_n, (x_n,))
        return _lerp(z, h, jnp.tanh(n))


def gru_step_reset_after(
    h: Hidden, projected: Gates, w_h: Array, b_hn: Array | None, affine: AffineFn
) -> Hidden:
    """A step with ``reset="after"``, of arrays alone, so that a kernel can compute it, too."""
    x_r, x_z, x_n = projected
    r, z, h_n = affine(h, w_h, (x_r, x_z, b_hn))
    r, z = jax.nn.sigmoid(r), jax.nn.sigmoid(z)
    return _lerp(z, h, jnp.tanh(x_n + r * h_n))


def _lerp(z: Array, h: Array, n: Array) -> Array:
    """``n + z * (h - n)``, and exactly ``h`` where z is 1."""
    # Reading `n` only once also matters: with JAX 0.12, the single fused kernel of a small CPU loop
    # is otherwise not vectorised.
    return z * h + (1 - z) * n
