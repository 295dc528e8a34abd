"""Measured thresholds, one dataclass for each decision of the schedule.

Speed depends on them, values do not. ``docs/performance.md`` has the measurements.
"""

import dataclasses
import os

from gru_jax._unroll.backward.backward_pass import MAX_CHUNK_ELEMENTS


@dataclasses.dataclass(frozen=True)
class ChunkTuning:
    """How many steps a chunk of the backward pass has."""

    # Of a state over a chunk's steps. Half a MiB in float32, of which a dozen arrays are at work:
    # they stay in a core's cache.
    elements: int = 2**17
    # Steps times sequences of a chunk, at least. With fewer, adding the chunks' weight gradients
    # takes longer than computing them.
    min_rows: int = 1280
    # Steps of a chunk, at least: adding the gradient of the weights reads and writes all of it, and
    # a chunk of large batches has little more to do than that.
    min_steps: int = 1


@dataclasses.dataclass(frozen=True)
class ProjectionTuning:
    """Whether the input projection runs inside the loop.

    Hoisting it gives one large matmul, but its output goes through memory; for large batches the
    page faults cost more than the smaller matmuls.
    """

    min_batch: int | None = 8  # smallest batch for which it may run in the loop; None: always hoist
    # With a gradient and an unsharded batch, elements of all projected inputs from which it does.
    # Shards share the cost of the smaller matmuls: for them it does also if inputs are no wider
    # than states, or if the projected inputs would not be saved.
    min_elements: int = 2**21
    max_features: int = 32  # without a gradient and unsharded, input features up to which it does
    # Without a gradient and sharded, parameters up to which it does: a core's cache holds them.
    max_params: int = 2**17


@dataclasses.dataclass(frozen=True)
class TimeBlockTuning:
    """Without a gradient, the inputs of some steps are projected at once."""

    threshold: int = 2**22  # elements of all projected inputs from which an unsharded batch is
    # Projected at once, at most: they stay in a cache until they are read. Shards are blocked, or
    # project in the loop, from there on.
    elements: int = 2**20
    min_steps: int = 4  # of a block; with fewer, inputs are projected in the loop


@dataclasses.dataclass(frozen=True)
class ResidualTuning:
    """What the forward pass saves for the backward pass."""

    # Whether preactivations may be saved. Otherwise one matmul over a chunk recomputes them.
    save_preactivations: bool = True
    # Elements of a state up to which they are recomputed from the projected inputs: writing arrays
    # step by step takes longer than the matmul. The same for units of a layer.
    recompute_max_step: int = 128
    recompute_max_units: int = 32
    # Of an input and a state together, up to which preactivations that exceed the budget are
    # recomputed: the matmul grows with them, the page faults that it avoids do not.
    recompute_max_features: int = 224
    # Elements that a call may allocate in all, by an estimate, without new memory. glibc returns
    # more than 32 MiB to the kernel after every call, and the page faults of mapping it again cost
    # more than recomputing. Chunks are made smaller for that, down to these steps and rows.
    budget_elements: int = 2**23 - 2**18
    min_chunk_steps: int = 8
    min_reduced_chunk_rows: int = 256


@dataclasses.dataclass(frozen=True)
class ShardTuning:
    """Whether the batch is split over CPU cores."""

    max_shards: int = 1  # of a batch; 1 never splits it
    min_rows: int = 8  # sequences of a shard
    # Parameters up to which it is split without a gradient: each shard reads them at every step.
    max_params: int = 2**19
    # Elements of all states, over all steps, from which it is split. Smaller calls gain little and
    # there is more to compile.
    threshold: int = 2**17


@dataclasses.dataclass(frozen=True)
class CopyTuning:
    """Whether mapped weights, as of several seeds under ``vmap``, run one copy after another.

    It is for gradients. A matmul with an axis of copies is slower, and all copies together exceed
    the cache.
    """

    # Elements of the states of all copies from which they do; None: never.
    min_elements: int | None = None
    min_rows: int = 8  # sequences of a copy; with fewer, the steps of one copy are too little work


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All thresholds, by decision."""

    chunk: ChunkTuning = ChunkTuning()
    projection: ProjectionTuning = ProjectionTuning()
    time_block: TimeBlockTuning = TimeBlockTuning()
    residuals: ResidualTuning = ResidualTuning()
    shards: ShardTuning = ShardTuning()
    copies: CopyTuning = CopyTuning()
    max_transposed_ratio: int = 0  # see BackwardOptions


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def has_avx512(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the CPU has AVX-512; False where there is no such file, as on other systems."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512f" in flags.split()


CPU_TUNING = Tuning(
    chunk=ChunkTuning(min_steps=4),
    # With AVX-512 a matmul takes a third of the time, and recomputing is cheaper.
    residuals=ResidualTuning(recompute_max_features=384 if has_avx512() else 224),
    shards=ShardTuning(max_shards=min(4, count_cores())),
    copies=CopyTuning(min_elements=2**13),
    max_transposed_ratio=12,
)
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
