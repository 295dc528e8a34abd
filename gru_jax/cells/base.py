"""What a cell is: parameters that know one step of a recurrence."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from gru_jax.typing import Array, DType, ProjectedInputs, Shape, State


@dataclasses.dataclass(frozen=True)
class Cell:
    """The seam that a cell fills: a frozen pytree dataclass of parameters with three functions.

    A subclass is decorated with ``@jax.tree_util.register_dataclass`` and
    ``@dataclasses.dataclass(frozen=True)``; its fields are arrays (or None for what the model
    does not have) and hyper-parameters marked ``metadata=dict(static=True)``. It then runs
    under :func:`gru_jax.unroll` with everything that offers, and in a stack.

    What the functions receive is already in the right precision: matrices in the inputs' dtype,
    vectors, states and projections in float32 at least. :func:`dot` multiplies accordingly.
    """

    num_feature_axes: ClassVar[int] = 1
    """How many trailing axes of an input belong to one step of one sequence."""

    @property
    def input_size(self) -> int | None:
        """Features of an input, checked by :func:`gru_jax.unroll`; None where any will do."""
        return None

    def validate(self) -> None:
        """Raises ValueError or TypeError where the parameters do not fit together."""

    def initial_state(self, batch_shape: Shape = ()) -> State:
        """The state before the first step, its leaves of shape (*batch, ...)."""
        raise NotImplementedError

    def project(self, xs: Array) -> ProjectedInputs:
        """All that can be computed for every step at once: (..., input) -> leaves (..., ...)."""
        raise NotImplementedError

    def recur(self, state: State, projected: ProjectedInputs) -> State:
        """The next state, from the last one and what was projected for this step."""
        raise NotImplementedError

    def output(self, state: State) -> Array:
        """What the rest of a model sees of a state."""
        return state


@runtime_checkable
class Affine(Protocol):
    """``(operand, weights, addends) -> sums``: what :func:`affine` computes."""

    def __call__(
        self, operand: Array, weights: Array, addends: Sequence[Array | None]
    ) -> tuple[Array, ...]: ...


class AffineCell(Cell):
    """A cell whose step is products with weights, and elementwise functions between them.

    A subclass says so by writing its equations as :meth:`combine`. Implementations that know
    the derivative of a product then need not differentiate the loop: they run the equations
    with an ``affine`` of their own.
    """

    def combine(self, state: State, projected: ProjectedInputs, affine: Affine) -> State:
        """The next state, in which every product with a parameter is a call of ``affine``.

        All else must be elementwise in the state, ``projected`` and what ``affine`` returns, and
        must use no parameter: those are weights and addends of ``affine``.
        """
        raise NotImplementedError

    def recur(self, state: State, projected: ProjectedInputs) -> State:
        return self.combine(state, projected, affine)


def affine(operand: Array, weights: Array, addends: Sequence[Array | None]) -> tuple[Array, ...]:
    """``operand @ weights``, cut into one array per addend, to which that addend is added.

    Args:
        operand: (*batch, H).
        weights: (H, k * H).
        addends: k arrays (*batch, H) or (H,); None adds nothing.
    """
    parts = jnp.split(dot(operand, weights), len(addends), axis=-1)
    return tuple(map(add_bias, parts, addends))


CellT = TypeVar("CellT", bound=Cell)
TreeT = TypeVar("TreeT")


def dot(x: Array, w: Array) -> Array:
    """``x @ w`` in the dtype of ``w``, accumulated and returned in float32 at least."""
    if w.shape[0] == 1:
        # Or XLA makes it no product and fuses it with the gates, which its CPU compiler then does
        # not vectorise.
        x = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
        w = jnp.concatenate([w, jnp.zeros_like(w)])
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=accum_dtype(w.dtype))


def add_bias(x: Array, bias: Array | None) -> Array:
    """``x + bias`` over the last axis; ``x`` where there is no bias."""
    return x if bias is None else x + jnp.broadcast_to(bias, x.shape)


def accum_dtype(dtype: DType) -> DType:
    """The dtype of gate arithmetic and accumulation: float32 at least."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def promote_params(cell: CellT) -> CellT:
    """The cell with every parameter in float32 at least, in which gradients add up over time."""
    return _cast(cell, lambda leaf: accum_dtype(leaf.dtype))


def project(cell: Cell, xs: Array) -> ProjectedInputs:
    """``cell.project`` of inputs, in their precision."""
    return cast_params(cell, xs.dtype).project(xs)


def cast_and_step(cell: Cell, state: State, projected: ProjectedInputs, dtype: DType) -> State:
    """One step of ``recur`` for inputs of ``dtype``; the state comes back in its own dtype."""
    wide = _cast(state, lambda leaf: accum_dtype(dtype))
    new = cast_params(cell, dtype).recur(wide, projected)
    return jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)


def cast_params(cell: CellT, dtype: DType) -> CellT:
    """The cell as a step with inputs of ``dtype`` computes: matrices in it, vectors wider."""
    return _cast(cell, lambda leaf: dtype if leaf.ndim >= 2 else accum_dtype(dtype))


def _cast(tree: TreeT, dtype_of: Callable[[Array], DType]) -> TreeT:
    """The tree with its floating point leaves in the dtype that is chosen for each."""

    def cast(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype_of(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
