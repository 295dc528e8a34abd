"""The schedule of a call: a pure function of its sizes and the tuning."""

import dataclasses
from typing import NamedTuple

from gru_jax._unroll.backward.residuals import ResidualPolicy
from gru_jax._unroll.chunks import divisor_near
from gru_jax._unroll.shards import Shards
from gru_jax._unroll.xla.tuning import CopyTuning, Tuning

UNSHARDED: Shards = (slice(None),)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a call."""

    time: int  # T
    sequences: int  # B, the product of all batch axes
    features: int  # elements of one step's input of one sequence
    state: int  # elements of a state, all leaves of the whole batch
    largest_leaf: int  # elements of its largest leaf
    units: int  # of the widest leaf
    params: int  # elements of all parameters
    projected: int  # elements of the projected inputs of one step
    jacobians: int  # derivatives between leaves that a step of the backward pass has
    residuals: int  # arrays of a step that are saved with its preactivations
    can_shard: bool = False  # whether the batch may be split over cores at all
    has_one_device: bool = False  # whether the program runs on one device
    cores_per_device: int | None = None  # None: this device has all of them
    recompute: bool = False  # whether nothing but the states may be saved
    num_live_cells: int = 1  # cells whose residuals share the fast memory

    @property
    def has_narrow_inputs(self) -> bool:
        """Whether inputs are no wider than states."""
        return self.features <= self.units


class ForwardSchedule(NamedTuple):
    """How a forward pass without a gradient runs."""

    shards: Shards = UNSHARDED  # of the batch, which run concurrently
    project_in_loop: bool = False  # whether inputs are projected step by step
    time_block: int | None = None  # for how many steps at a time they are otherwise; None: for all


class GradientSchedule(NamedTuple):
    """How a forward pass with these residuals and its backward pass run."""

    save: ResidualPolicy
    max_chunk_steps: int
    shards: Shards = UNSHARDED
    project_in_loop: bool = False


class CopySchedule(NamedTuple):
    """When the copies of mapped weights run one after another, with a gradient."""

    sequences: int  # of a copy
    state: int  # elements of its state
    tuning: CopyTuning

    def least_copies(self, batch: int = 1) -> int | None:
        """From how many copies on, if ``batch`` more sequences are mapped for each; or never."""
        least = self.tuning.min_elements
        if least is None or batch * self.sequences < self.tuning.min_rows:
            return None
        return max(2, -(-least // (batch * self.state)))


class Schedule(NamedTuple):
    """How a call runs."""

    forward: ForwardSchedule
    gradient: GradientSchedule
    copies: CopySchedule | None = None  # None: those of mapped weights run as vmap has it


def schedule(sizes: Sizes, tuning: Tuning) -> Schedule:
    """The fastest schedule for some sizes."""
    shards = _choose_shards(sizes, tuning)
    forward = schedule_forward(sizes, tuning, shards)
    may_take_turns = sizes.has_one_device and tuning.copies.min_elements is not None
    copies = CopySchedule(sizes.sequences, sizes.state, tuning.copies) if may_take_turns else None
    return Schedule(forward, schedule_gradient(sizes, tuning, shards), copies)


def schedule_any_size(time: int, tuning: Tuning, *, recompute: bool) -> Schedule:
    """A schedule for sizes that are not known, as in a program for any size; T may be symbolic."""
    saves_all = tuning.residuals.save_preactivations and not recompute
    # The number of chunks would not be known, so there is one.
    gradient = GradientSchedule("preactivations" if saves_all else "states", max_chunk_steps=time)
    return Schedule(ForwardSchedule(), gradient)


def schedule_forward(sizes: Sizes, tuning: Tuning, shards: Shards) -> ForwardSchedule:
    """The fastest forward pass without a gradient."""
    projection, block = tuning.projection, tuning.time_block
    if sizes.params > tuning.shards.max_params:
        shards = UNSHARDED
    if projection.min_batch is None or sizes.sequences < projection.min_batch:
        return ForwardSchedule(shards)
    projected = sizes.time * sizes.projected
    is_sharded = shards != UNSHARDED
    exceeds_block = projected > block.elements
    if is_sharded and sizes.params <= projection.max_params:
        return ForwardSchedule(shards, exceeds_block or sizes.has_narrow_inputs)
    if not is_sharded and sizes.features <= projection.max_features:
        return ForwardSchedule(shards, project_in_loop=True)
    if not exceeds_block or (not is_sharded and projected < block.threshold):
        return ForwardSchedule(shards)
    most = block.elements // sizes.projected
    if most < block.min_steps:
        return ForwardSchedule(shards, project_in_loop=True)
    return ForwardSchedule(shards, time_block=divisor_near(sizes.time, most))


def schedule_gradient(sizes: Sizes, tuning: Tuning, shards: Shards) -> GradientSchedule:
    """The fastest forward and backward pass with the residuals that may be saved."""
    in_loop = _choose_projection(sizes, tuning, shards)
    by_elements = tuning.chunk.elements // max(1, sizes.largest_leaf)
    by_rows = tuning.chunk.min_rows // max(1, sizes.sequences)
    most = max(by_elements, by_rows, tuning.chunk.min_steps)
    if sizes.recompute:
        # Otherwise a chunk would recompute as much at once as was not saved.
        return GradientSchedule("states", min(most, max(1, sizes.time // 8)), shards, in_loop)
    save, most = _choose_residuals(sizes, tuning, most, project_in_loop=in_loop)
    return GradientSchedule(save, most, shards, in_loop)


def _choose_shards(sizes: Sizes, tuning: Tuning) -> Shards:
    most, batch = tuning.shards.max_shards, sizes.sequences
    if sizes.cores_per_device is not None:
        most = min(most, sizes.cores_per_device)
    if most < 2 or not sizes.can_shard or sizes.time * sizes.state < tuning.shards.threshold:
        return UNSHARDED
    count = min(most, batch // tuning.shards.min_rows)
    if count < 2:
        return UNSHARDED
    ends = [batch * shard // count for shard in range(count + 1)]
    return tuple(map(slice, ends, ends[1:]))


def _choose_projection(sizes: Sizes, tuning: Tuning, shards: Shards) -> bool:
    """Whether inputs are projected in the loop, with a gradient."""
    projection = tuning.projection
    if projection.min_batch is None or sizes.sequences < projection.min_batch:
        return False
    if sizes.time * sizes.projected >= projection.min_elements:
        return True
    if shards == UNSHARDED:
        return False
    saves_projected = not sizes.recompute and _saves_projected(sizes, tuning)
    return not saves_projected or sizes.has_narrow_inputs


def _choose_residuals(
    sizes: Sizes, tuning: Tuning, most: int, *, project_in_loop: bool
) -> tuple[ResidualPolicy, int]:
    """The fastest residuals, and how many of at most ``most`` steps a chunk should have."""
    residuals = tuning.residuals
    if not residuals.save_preactivations:
        return "states", most
    if _saves_projected(sizes, tuning):
        return "projected", most
    sequences = max(1, sizes.sequences)
    saved = sizes.largest_leaf * sizes.residuals
    if steps := _chunk_within_budget(sizes, tuning, most, saved, project_in_loop=project_in_loop):
        return "preactivations", steps
    steps = _chunk_within_budget(sizes, tuning, most, 0, project_in_loop=project_in_loop)
    is_small = sizes.features + sizes.state // sequences <= residuals.recompute_max_features
    if is_small and (steps or sizes.num_live_cells == 1):
        return "states", steps or most
    return "preactivations", most


def _saves_projected(sizes: Sizes, tuning: Tuning) -> bool:
    """Whether the projected inputs are the fastest to save: for tiny steps and narrow layers."""
    residuals = tuning.residuals
    is_narrow = sizes.units <= residuals.recompute_max_units
    return is_narrow or sizes.state <= residuals.recompute_max_step


def _chunk_within_budget(
    sizes: Sizes, tuning: Tuning, most: int, saved: int, *, project_in_loop: bool
) -> int:
    """Steps of a chunk with which ``saved`` elements a step fit the budget; 0 if none do."""
    residuals, cells = tuning.residuals, sizes.num_live_cells
    by_rows = residuals.min_reduced_chunk_rows // max(1, sizes.sequences)
    least = max(residuals.min_chunk_steps, by_rows)
    # As XLA allocates: two arrays for each derivative of a chunk, and a few others; for each layer
    # the cotangents of the outputs, and what layers pass on, joined and not.
    chunk = sizes.largest_leaf * (2 * sizes.jacobians + 3)
    passed_on = sizes.largest_leaf * (5 * cells // 2 - 1)
    room = residuals.budget_elements - cells * (sizes.params + sizes.time * (sizes.state + saved))
    fit = min(most, (room - sizes.params // 2 - sizes.time * passed_on) // chunk)
    projected = 0 if project_in_loop else sizes.projected
    return fit if fit >= min(most, least) and room >= 2 * sizes.time * projected else 0
