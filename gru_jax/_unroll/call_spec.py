"""Description of a call, from which an implementation is selected."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax

from gru_jax._autodiff.step_graph import StepGraph, trace_step
from gru_jax.cells.base import AffineCell, Cell
from gru_jax.cells.linear import accum_dtype
from gru_jax.typing import Array, Checkpoint, DType, ImplementationName, Shape, State


class CallOptions(NamedTuple):
    """What a call of :func:`gru_jax.unroll` is compiled for, apart from its arrays."""

    cell_types: tuple[type, ...]  # see node_types
    reverse: bool = False
    requested: ImplementationName | None = None
    checkpoint: Checkpoint = None
    window: int | None = None  # truncates the gradient
    num_live_cells: int = 1  # cells whose residuals share the fast memory: those of a stack


@dataclasses.dataclass(frozen=True, eq=False)
class CallSpec:
    """A call of :func:`gru_jax.unroll`, as far as its implementations differ in it."""

    cell: Cell  # only the types of its parameters are read
    shape: Shape  # of the inputs, (T, *batch, D); sizes may be symbolic, see has_static_shape
    dtype: DType  # of the inputs
    state_dtypes: tuple[DType, ...]  # of the carry's leaves
    precision: str | None  # what jax.default_matmul_precision is set to
    # Where the program most likely runs. The platform is certain only once it is lowered, see
    # gru_jax._unroll.fused.transforms.
    device: Any
    # That XLA may partition the program over: those of the mesh axes that are not manual. Without a
    # mesh it is known only once the program is lowered, and here as many as there are.
    num_devices: int
    mesh: jax.sharding.AbstractMesh  # in whose context the call is made
    is_tensor_parallel: bool  # whether XLA partitions the loop over axes that shard parameters
    is_explicit: bool  # whether an implementation was explicitly requested
    recompute: bool  # whether to save the states alone for the backward pass
    num_live_cells: int

    @property
    def platform(self) -> str:
        """The device's: "cpu", "gpu" or "tpu"."""
        return self.device.platform

    @property
    def device_kind(self) -> str:
        """The device's, as JAX names it."""
        return self.device.device_kind

    @property
    def has_static_shape(self) -> bool:
        """Whether all sizes are numbers; those of a program for any size are not."""
        return is_static_shape(self.shape)

    @property
    def has_explicit_axes(self) -> bool:
        """Whether sharding is part of the arrays' types."""
        return jax.sharding.AxisType.Explicit in self.mesh.axis_types

    @property
    def is_partitioned(self) -> bool:
        """Whether XLA may partition the program, over automatic axes alone and the batch's."""
        is_automatic = set(self.mesh.axis_types) <= {jax.sharding.AxisType.Auto}
        return self.num_devices > 1 and is_automatic and not self.is_tensor_parallel

    @functools.cached_property
    def step_graph(self) -> StepGraph | str:
        """The graph of the cell's step, or why there is none."""
        name = type(self.cell).__name__
        if not isinstance(self.cell, AffineCell):
            return f"{name} is not a gru_jax.AffineCell, whose matmuls can be told apart"
        if self.cell.num_feature_axes != 1:
            return (
                f"{name} has {self.cell.num_feature_axes} feature axes, and only one is supported"
            )
        features = self.shape[len(self.shape) - self.cell.num_feature_axes :]
        try:
            graph = trace_step(self.cell, features, self.dtype)
        except Exception as error:
            # The user's own code; if it fails for the batch of the call, too, the scan raises.
            return f"the step of {name} cannot be traced for any batch: {error}"
        if graph.violations:
            return f"{name} breaks the rule of AffineCell: {'; '.join(graph.violations)}"
        return graph


def make_call_spec(
    cell: Cell,
    xs: Array,
    h0: State | None,
    options: CallOptions,
    *,
    is_tensor_parallel: bool = False,
) -> CallSpec:
    """The call of ``unroll`` with these arguments, made here and now."""
    device = default_device()
    state_dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(h0)) or (accum_dtype(xs.dtype),)
    mesh = jax.sharding.get_abstract_mesh()
    return CallSpec(
        cell=cell,
        shape=xs.shape,
        dtype=xs.dtype,
        state_dtypes=state_dtypes,
        precision=jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
        device=device,
        num_devices=count_devices(device) if mesh.empty else _count_partitions(mesh),
        mesh=mesh,
        is_tensor_parallel=is_tensor_parallel,
        is_explicit=options.requested is not None,
        recompute=options.checkpoint == "step",
        num_live_cells=options.num_live_cells,
    )


def is_static_shape(shape: Shape) -> bool:
    """Whether sizes are numbers: those of a program for any size (:mod:`jax.export`) are not."""
    return all(isinstance(size, int) for size in shape)


def default_device() -> Any:
    """A device of the platform where a program that is traced now most likely runs."""
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None or isinstance(device, str):
        return jax.devices(device)[0]
    return device


def _count_partitions(mesh: jax.sharding.AbstractMesh) -> int:
    """Over how many devices XLA may partition a program in the context of a mesh."""
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in axes if kind != jax.sharding.AxisType.Manual)


def count_devices(device: Any) -> int:
    """How many devices there are of the same platform."""
    return jax.device_count(device.platform)
