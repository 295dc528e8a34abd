"""Evaluation of a split on the devices where the parameters lie: one, or all of a mesh."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from experiments.typing import Array, Batch, Metrics, Params
from gru_jax import training


def over_devices(params: Params, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields batches, each of them split over the devices of the parameters.

    Rows that are left over, where the devices do not divide a batch, follow as a batch of their
    own, which each device gets as a whole. With parameters on one device, batches are as they were.

    Args:
        params: a pytree of arrays on one device, or replicated on a mesh with the axis `data`.
        batches: pytrees of arrays whose leading axis has the rows.
    """
    mesh = _mesh(params)
    if mesh is None:
        yield from batches
        return
    split, whole = training.DataParallel(mesh), training.DataParallel(mesh, batch_axes=None)
    for batch in batches:
        size = num_rows(batch)
        divided = size - size % split.num_shards
        if divided:
            yield _place(split, jax.tree.map(lambda leaf, end=divided: leaf[:end], batch))
        if divided < size:
            yield _place(whole, jax.tree.map(lambda leaf, start=divided: leaf[start:], batch))


def mean_over_rows(
    means: Callable[[Params, Batch], Mapping[str, Array]],
    params: Params,
    batch: Batch,
    weight: Callable[[Batch], Any] | None = None,
) -> Metrics:
    """Returns metrics over a batch, whose rows are split over the devices of the parameters.

    Args:
        means: (params, batch) -> means over the batch by name, preferably jitted.
        params, batch: as for :func:`over_devices`.
        weight: batch -> number of elements over which the means are; None counts rows.
    """
    parts = list(over_devices(params, [batch]))
    results = jax.device_get([means(params, part) for part in parts])
    weights = [float((weight or num_rows)(part)) for part in parts]
    # In float64, in which the product of a float32 and a number of elements is exact.
    return {
        name: math.fsum(
            float(result[name]) * each for result, each in zip(results, weights, strict=True)
        )
        / math.fsum(weights)
        for name in results[0]
    }


def on_one_device(params: Params) -> Params:
    """Returns replicated parameters as arrays on one device of this process."""
    if _mesh(params) is None:
        return params
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)


def to_host(array: jax.Array) -> np.ndarray:
    """Returns an array with the rows of all devices, of all processes. All must call this."""
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def num_rows(batch: Batch) -> int:
    """Returns the size of the leading axis."""
    return len(jax.tree.leaves(batch)[0])


def _place(parallel: training.DataParallel, batch: Batch) -> Batch:
    return parallel.batches(lambda step: batch)(0)


def _mesh(params: Params) -> Any:
    """Returns the mesh on which parameters lie; None on one device."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None
