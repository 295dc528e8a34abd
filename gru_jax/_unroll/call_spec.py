"""What a choice between implementations is made from."""

import dataclasses
from typing import Any

import jax

from gru_jax.cells.base import Cell, accum_dtype
from gru_jax.typing import Array, DType, Shape, State


@dataclasses.dataclass(frozen=True)
class RematPolicy:
    """What a call may keep for its gradient.

    Attributes:
        recompute: whether nothing but the states.
        num_live_cells: the number of cells whose residuals are alive at the same time.
    """

    recompute: bool = False
    num_live_cells: int = 1


@dataclasses.dataclass(frozen=True)
class CallSpec:
    """A call of :func:`gru_jax.unroll`, as far as its implementations differ in it.

    Attributes:
        cell: the parameters; their types, not their values.
        shape: of the inputs, (T, *batch, D); sizes may be symbolic, see :attr:`has_static_shape`.
        dtype: of the inputs.
        state_dtypes: of the carry's leaves.
        precision: what ``jax.default_matmul_precision`` is set to, None where it is not.
        platform: where the program most likely runs: ``"cpu"``, ``"gpu"`` or ``"tpu"``. That is
            certain only once it is lowered, see :mod:`gru_jax._unroll.transform_rules`.
        device_kind: of a device of that platform, as JAX names it.
        num_devices: over how many of them the compiler may spread the program; 1 within
            :func:`jax.shard_map`.
        is_explicit: whether an implementation is requested explicitly.
        remat: which residuals the call may save.
    """

    cell: Cell
    shape: Shape
    dtype: DType
    state_dtypes: tuple[DType, ...]
    precision: str | None
    platform: str
    device_kind: str
    num_devices: int
    is_explicit: bool
    remat: RematPolicy = RematPolicy()

    @property
    def has_static_shape(self) -> bool:
        """Whether all sizes are known, as they are not when exported with symbolic shapes."""
        return are_known(self.shape)


def make_call_spec(
    cell: Cell,
    xs: Array,
    state: State | None,
    *,
    is_explicit: bool,
    remat: RematPolicy = RematPolicy(),
) -> CallSpec:
    """The call of ``unroll`` with these arguments, made here and now.

    Args:
        cell, xs, state: as they came; None for the initial state.
        is_explicit: whether an implementation is requested explicitly.
        remat: which residuals the call may save.
    """
    device = default_device()
    if state is None:
        state_dtypes = (accum_dtype(xs.dtype),)
    else:
        state_dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(state))
    mesh = jax.sharding.get_abstract_mesh()
    is_manual = not mesh.empty and mesh.are_all_axes_manual
    return CallSpec(
        cell=cell,
        shape=xs.shape,
        dtype=xs.dtype,
        state_dtypes=state_dtypes,
        precision=jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        platform=device.platform,
        device_kind=device.device_kind,
        num_devices=1 if is_manual else count_devices(device),
        is_explicit=is_explicit,
        remat=remat,
    )


def are_known(shape: Shape) -> bool:
    """Whether sizes are numbers: those of a program for any size (:mod:`jax.export`) are not."""
    return all(isinstance(size, int) for size in shape)


def default_device() -> Any:
    """A device of the platform where a program that is traced now most likely runs."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None or isinstance(device, str):
        return jax.devices(device)[0]
    return device


def count_devices(device: Any) -> int:
    """How many devices there are of the same platform."""
    return jax.device_count(device.platform)
