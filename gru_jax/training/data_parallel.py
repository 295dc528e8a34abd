"""Data-parallel training: where the state and the batches of a run lie on a mesh of devices."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_jax import _checks
from gru_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class DataParallel:
    """Places the state and the batches of a run on a mesh, for :func:`gru_jax.training.fit`.

    The batch is split over the devices along ``axis``, and ``train_step`` stays as it is: XLA sums
    the gradients over the devices. Batches are still a function of (seed, step), the same on any
    number of devices and processes. A checkpoint can be resumed on another mesh.

    Attributes:
        mesh: the devices, of all processes.
        axis: name of the mesh axis, or names of several, along which the batch is split.
        batch_axes: the axis of the sequences in each array of a batch: an integer, or a pytree that
            is a prefix of the batch, as ``in_axes`` of :func:`jax.vmap`. None marks what every
            device gets as a whole, as it does scalars. A time-major batch has 1.
        carry_axes: the same for the carry of a state.

    Raises:
        TypeError: ``mesh`` is no mesh.
        ValueError: the mesh has no such axis.
    """

    mesh: Mesh
    axis: str | tuple[str, ...] = "data"
    batch_axes: Any = 0
    carry_axes: Any = 0

    def __post_init__(self) -> None:
        _checks.instance("mesh", self.mesh, Mesh, "a jax.sharding.Mesh")
        for name in self._axes:
            if name not in self.mesh.axis_names:
                raise ValueError(
                    f"axis must be among the axes of mesh, {self.mesh.axis_names}, got {name!r}"
                )

    @property
    def num_shards(self) -> int:
        """Number of parts into which a batch is split."""
        return int(np.prod([self.mesh.shape[name] for name in self._axes]))

    def place_state(self, state: TrainState) -> TrainState:
        """Returns the state on the mesh, as copies.

        The carry is split as batches are. Of the rest, arrays that lie on this mesh already keep
        their sharding, such as parameters that the caller has sharded; the others are replicated.

        Raises:
            ValueError: the devices do not divide the carry's batch.
        """

        def place(leaf: jax.Array) -> jax.Array:
            sharding = leaf.sharding
            if not (isinstance(sharding, NamedSharding) and sharding.mesh == self.mesh):
                sharding = NamedSharding(self.mesh, PartitionSpec())
            return _put(leaf, sharding)

        step, params, opt_state = jax.tree.map(place, (state.step, state.params, state.opt_state))
        carry = self._split(state.carry, self.carry_axes, is_local=False)
        return TrainState(step, params, opt_state, carry)

    def batches(
        self, batch_at: Callable[[int], Any], *, process_local: bool = False
    ) -> Callable[[int], Any]:
        """Returns ``batch_at`` with its batches on the mesh.

        Args:
            batch_at: as for :func:`gru_jax.training.fit`.
            process_local: whether ``batch_at`` gives the rows of this process only, those of
                :meth:`local_rows`, and not the whole batch.

        Raises:
            ValueError: when called, if the devices do not divide the batch.
        """
        return lambda step: self._split(batch_at(step), self.batch_axes, is_local=process_local)

    def local_rows(self, batch_size: int) -> slice:
        """Returns which rows of a batch the devices of this process hold.

        A process that reads its own rows only takes, from the indices of the whole batch,
        ``ShuffledIndices(...)(step)[rows]``.

        Raises:
            ValueError: the devices do not divide the batch, or the mesh scatters the rows of this
                process over the batch.
        """
        self._check_divides(batch_size, 0)
        sharding = NamedSharding(self.mesh, PartitionSpec(self.axis))
        of_devices = sharding.addressable_devices_indices_map((batch_size,))
        shards = sorted({rows[0].indices(batch_size)[:2] for rows in of_devices.values() if rows})
        if any(stop != start for (_, stop), (start, _) in itertools.pairwise(shards)):
            raise ValueError(
                f"mesh must give each process consecutive rows of the batch along {self.axis!r}, "
                f"got {shards} of {batch_size} for process {jax.process_index()}"
            )
        return slice(shards[0][0], shards[-1][1])

    @property
    def _axes(self) -> tuple[str, ...]:
        return (self.axis,) if isinstance(self.axis, str) else self.axis

    def _split(self, tree: Any, axes: Any, *, is_local: bool) -> Any:
        def put(axis: int | None, subtree: Any) -> Any:
            return jax.tree.map(lambda leaf: self._place_rows(leaf, axis, is_local), subtree)

        return jax.tree.map(put, axes, tree, is_leaf=lambda axis: axis is None)

    def _place_rows(self, leaf: Any, axis: int | None, is_local: bool) -> jax.Array:
        leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if axis is None or leaf.ndim == 0:
            return _put(leaf, NamedSharding(self.mesh, PartitionSpec()))
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"axis {axis} of a batch or a carry does not exist in an array of shape "
                f"{leaf.shape}"
            )
        first = axis % leaf.ndim
        spec = PartitionSpec(*[None] * first, self.axis)
        sharding = NamedSharding(self.mesh, spec)
        if is_local:
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        self._check_divides(leaf.shape[axis], first)
        return _put(leaf, sharding)

    def _check_divides(self, size: int, axis: int) -> None:
        if size % self.num_shards:
            raise ValueError(
                f"a batch must have a multiple of {self.num_shards} sequences, the devices along "
                f"mesh axis {self.axis!r}, got {size} along axis {axis}"
            )


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Returns a copy of an array with another sharding; each process hands in the whole array."""
    if jax.process_count() == 1 or getattr(array, "sharding", None) == sharding:
        return jax.device_put(array, sharding, may_alias=False)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
