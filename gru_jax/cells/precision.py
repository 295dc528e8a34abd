"""Dtypes of a step: parameters, inputs and states may differ, accumulation is float32 at least."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from gru_jax.cells.base import Cell
from gru_jax.cells.linear import accum_dtype
from gru_jax.typing import Array, DType, ProjectedInputs, State

CellT = TypeVar("CellT", bound=Cell)
TreeT = TypeVar("TreeT")


def promote_params(cell: CellT, dtype: DType) -> CellT:
    """The cell in the dtypes in which gradients accumulate, for inputs of ``dtype``.

    They are float32 at least, and no narrower than the inputs.
    """
    least = accum_dtype(dtype)
    return _cast(cell, lambda leaf: max(accum_dtype(leaf.dtype), least, key=_bits))


def cast_params(cell: CellT, dtype: DType) -> CellT:
    """The cell as a step with inputs of ``dtype`` computes: matrices in it, vectors wider."""
    return _cast(cell, lambda leaf: dtype if leaf.ndim >= 2 else accum_dtype(dtype))


def project(cell: Cell, xs: Array) -> ProjectedInputs:
    """``cell.project`` of inputs, in their precision."""
    return cast_params(cell, xs.dtype).project(xs)


def cast_and_step(cell: Cell, state: State, projected: ProjectedInputs, dtype: DType) -> State:
    """One step of ``recur`` for inputs of ``dtype``; the state keeps its own dtype."""
    new = cast_params(cell, dtype).recur(promote_state(state, dtype), projected)
    return cast_like(new, state)


def promote_state(state: State, dtype: DType) -> State:
    """A state in the dtype of gate arithmetic for inputs of ``dtype``."""
    return _cast(state, lambda leaf: accum_dtype(dtype))


def cast_like(tree: TreeT, like: TreeT) -> TreeT:
    """A tree in the dtypes of another."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def _bits(dtype: DType) -> int:
    return jnp.finfo(dtype).bits


def _cast(tree: TreeT, dtype_of: Callable[[Array], DType]) -> TreeT:
    def cast(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype_of(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)
