"""Measured thresholds, one dataclass for each decision of the schedule.

Speed depends on them, values do not. ``docs/performance.md`` has the measurements.
"""

import dataclasses
import os

from gru_jax._unroll.backward.backward_pass import MAX_CHUNK_ELEMENTS


@dataclasses.dataclass(frozen=True)
class ChunkTuning:
    """How many steps a chunk of the backward pass has.

    Attributes:
        elements: of a state over a chunk's steps. Half a MiB in float32, of which a dozen arrays
            are at work: they stay in a core's cache.
        min_rows: steps times sequences of a chunk, at least. With fewer, adding the chunks' weight
            gradients takes longer than computing them.
    """

    elements: int = 2**17
    min_rows: int = 1280


@dataclasses.dataclass(frozen=True)
class ProjectionTuning:
    """Whether the input projection runs inside the loop.

    Hoisting it gives one large matmul, but its output goes through memory; for large batches the
    page faults cost more than the smaller matmuls.

    Attributes:
        min_batch: smallest batch for which it may run in the loop. None always hoists.
        min_elements: with a gradient and an unsharded batch, elements of all projected inputs from
            which it does. Shards share the cost of the smaller matmuls: for them it does also if
            inputs are no wider than states, or if the projected inputs would not be saved.
        max_features: without a gradient and unsharded, input features up to which it does.
        max_params: without a gradient and sharded, parameters up to which it does: a core's cache
            holds all weights.
    """

    min_batch: int | None = 8
    min_elements: int = 2**21
    max_features: int = 32
    max_params: int = 2**17


@dataclasses.dataclass(frozen=True)
class TimeBlockTuning:
    """Time blocking of a forward pass without a gradient: some steps' inputs are projected at once.

    Attributes:
        threshold: elements of all projected inputs from which an unsharded batch is blocked.
        elements: projected at once, at most: they stay in a cache until they are read. Shards are
            blocked, or project in the loop, from there on.
        min_steps: of a block; with fewer, inputs are projected in the loop.
    """

    threshold: int = 2**22
    elements: int = 2**20
    min_steps: int = 4


@dataclasses.dataclass(frozen=True)
class ResidualTuning:
    """What the forward pass saves for the backward pass.

    Attributes:
        save_preactivations: whether preactivations may be saved. Otherwise one matmul over all
            steps of a chunk recomputes them.
        recompute_max_step: elements of a state up to which they are recomputed from the projected
            inputs: writing arrays step by step takes longer than the matmul.
        recompute_max_units: units of a layer up to which they are, too.
        recompute_max_features: of an input and a state together, up to which preactivations that
            exceed the budget are recomputed: the matmul grows with them.
        budget_elements: that a call may allocate in all, by an estimate, without new memory. glibc
            returns more than 32 MiB to the kernel after every call, and the page faults of mapping
            it again cost more than recomputing.
        min_chunk_steps, min_reduced_chunk_rows: down to which chunks are made smaller for that.
    """

    save_preactivations: bool = True
    recompute_max_step: int = 128
    recompute_max_units: int = 32
    recompute_max_features: int = 384
    budget_elements: int = 2**23 - 2**18
    min_chunk_steps: int = 8
    min_reduced_chunk_rows: int = 256


@dataclasses.dataclass(frozen=True)
class ShardTuning:
    """Whether the batch is split over CPU cores.

    Attributes:
        max_shards: of a batch; 1 never splits it.
        min_rows: sequences of a shard.
        max_params: of a cell, up to which it is split without a gradient: each shard reads the
            weights at every step.
        threshold: elements of all states, over all steps, from which it is split. Smaller calls
            gain little and there is more to compile.
    """

    max_shards: int = 1
    min_rows: int = 8
    max_params: int = 2**19
    threshold: int = 2**17


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All thresholds.

    Attributes:
        chunk, projection, time_block, residuals, shards: by decision.
        max_transposed_ratio: see :class:`~gru_jax._unroll.backward.chunk.XlaHints`.
    """

    chunk: ChunkTuning = ChunkTuning()
    projection: ProjectionTuning = ProjectionTuning()
    time_block: TimeBlockTuning = TimeBlockTuning()
    residuals: ResidualTuning = ResidualTuning()
    shards: ShardTuning = ShardTuning()
    max_transposed_ratio: int = 0


def _count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


CPU_TUNING = Tuning(shards=ShardTuning(max_shards=min(4, _count_cores())), max_transposed_ratio=12)
"""Measured on two cores, with AVX-512 and with AVX2."""

ACCELERATOR_TUNING = Tuning(
    chunk=ChunkTuning(elements=MAX_CHUNK_ELEMENTS),
    projection=ProjectionTuning(min_batch=None),
    residuals=ResidualTuning(save_preactivations=False),
)
"""For devices where the launches of its kernels bound a step: each array that a loop writes takes
one, and each chunk takes a few more. Counted in compiled programs, not measured."""


def tuning_for(platform: str) -> Tuning:
    """The thresholds for a platform."""
    return CPU_TUNING if platform == "cpu" else ACCELERATOR_TUNING
