"""How a call is run where XLA compiles loops: by sizes, so that it is fast on its device."""

import dataclasses
import math
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._autodiff.step_graph import Anatomy
from gru_jax._unroll.backward.backward_pass import LARGE_BLOCK
from gru_jax._unroll.call_spec import RematPolicy, are_known, count_devices, default_device
from gru_jax._unroll.chunks import divisor_near
from gru_jax._unroll.masking import Steps
from gru_jax._unroll.xla.concurrent_scan import WHOLE, Parts
from gru_jax._unroll.xla.forward import Keep, batch_shape_of, one_step
from gru_jax.cells.base import AffineCell, cast_params
from gru_jax.typing import State


def _count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What speed depends on, and values do not.

    Attributes:
        block_elements: of a state over the steps of a block on the way back. Half a MiB in
            float32, of which a dozen are at work: what stays in a cache.
        block_rows: steps times sequences that a block has at least, lest adding up the blocks'
            gradients of the weights, which may be large, weighs more than computing them.
        inside_batch: sequences from which inputs may be projected step by step. Ahead of the
            loop it is one efficient product; but what that writes is read again from memory,
            into whose fresh pages more time goes than a product per step loses. None: never.
        inside_elements: of all that is projected, from which it is, where gradients are kept and
            the batch is one. Where it is in parts, they share what a product per step takes: it
            is if inputs are no wider than states, or with more to write than this, or if what is
            projected would not be kept.
        inside_features: of an input, up to which it is, where no gradients are kept and the batch
            is one.
        window_elements: of all that is projected, from which one batch is run some steps at a time
            where no gradients are kept.
        ahead_elements: of what is projected at once then, at most: what stays in a cache until it
            is read. Parts are run so from there on, or project inputs as they are read.
        ahead_steps: of such a window, at least, or inputs are projected step by step.
        keep_sums: whether the sums that enter the gates may be kept for the way back, and need not
            be computed again by one product over all steps of a block.
        keep_step: elements of a state up to which they are not: writing arrays step by step takes
            longer than the product.
        keep_units: the width of a layer up to which they are not, either.
        fresh_elements: that a call may take in all, by an estimate, without getting fresh memory:
            glibc hands more than 32 MiB back to the system after every call, and getting it again
            page by page takes longer than computing the sums again.
        least_steps, least_rows: that blocks may be reduced to for that.
        keep_features: of an input and a state together, up to which sums that do not fit are
            computed again: the product grows with them.
        transposed_rows: see :class:`~gru_jax._unroll.backward.chunk.Layout`.
        parts: of a batch that run at the same time, at most, see
            :mod:`~gru_jax._unroll.xla.concurrent_scan`.
        part_rows: sequences of a part, at least.
        part_parameters: of a cell, up to which there are parts where no gradients are kept: each
            part reads them at every step.
        inside_parameters: of a cell, up to which parts project inputs as they are read, where no
            gradients are kept: a core's cache holds all weights.
        part_elements: of a state over all steps and sequences, from which there are parts: a train
            step gains little from less, and there is more to compile.
    """

    block_elements: int = 2**17
    block_rows: int = 1280
    inside_batch: int | None = 8
    inside_elements: int = 2**21
    inside_features: int = 32
    window_elements: int = 2**22
    ahead_elements: int = 2**20
    ahead_steps: int = 4
    keep_sums: bool = True
    keep_step: int = 128
    keep_units: int = 32
    fresh_elements: int = 2**23 - 2**18
    least_steps: int = 8
    least_rows: int = 256
    keep_features: int = 384
    transposed_rows: int = 0
    parts: int = 1
    part_rows: int = 8
    part_parameters: int = 2**19
    inside_parameters: int = 2**17
    part_elements: int = 2**17


TUNING = Tuning(transposed_rows=12, parts=min(4, _count_cores()))
"""For CPUs, by measurement."""

ACCELERATOR = Tuning(block_elements=LARGE_BLOCK, inside_batch=None, keep_sums=False)
"""For devices where a step is bound by the launches of its kernels: each array that a loop writes
takes one, and each block takes a few more. Counted in compiled programs, not measured."""


class Forward(NamedTuple):
    """How the way forward goes where no gradients are wanted.

    Attributes:
        parts: of the batch, that run at the same time.
        inside: whether inputs are projected as they are read.
        window: of how many steps at a time they are projected otherwise; None: of all.
    """

    parts: Parts
    inside: bool
    window: int | None = None


class Gradient(NamedTuple):
    """How the way forward and the way back go.

    Attributes:
        parts, inside: as for :class:`Forward`.
        keep: what the way forward leaves.
        most_steps: of a block on the way back.
    """

    parts: Parts
    inside: bool
    keep: Keep
    most_steps: int


def plan_forward(cell: AffineCell, steps: Steps, state: State, tuning: Tuning) -> Forward:
    """The fastest way forward."""
    parts = _parts(cell, steps, state, tuning)
    if _size(cell) > tuning.part_parameters:
        parts = WHOLE
    if tuning.inside_batch is None or not are_known(steps.xs.shape):
        return Forward(parts, inside=False)
    if _count_sequences(cell, steps) < tuning.inside_batch:
        return Forward(parts, inside=False)
    time, projected = steps.xs.shape[0], _projected_size(cell, steps, state)
    is_much = time * projected > tuning.ahead_elements
    if parts != WHOLE and _size(cell) <= tuning.inside_parameters:
        return Forward(parts, inside=is_much or _is_narrow(cell, steps, state))
    if parts == WHOLE and _count_features(cell, steps) <= tuning.inside_features:
        return Forward(parts, inside=True)
    if not is_much or (parts == WHOLE and time * projected < tuning.window_elements):
        return Forward(parts, inside=False)
    most = tuning.ahead_elements // projected
    if most < tuning.ahead_steps:
        return Forward(parts, inside=True)
    return Forward(parts, inside=False, window=divisor_near(time, most))


def plan_gradient(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    tuning: Tuning,
    memory: RematPolicy,
) -> Gradient:
    """The fastest way forward and back with what may be kept."""
    parts = _parts(cell, steps, state, tuning)
    inside = _project_inside(cell, steps, state, tuning, memory, parts)
    most = _most_steps(cell, steps, state, tuning)
    if memory.recompute:
        if are_known(steps.xs.shape):
            # Or what is computed again at once would be as much as what was not kept.
            most = min(most, max(1, steps.xs.shape[0] // 8))
        return Gradient(parts, inside, "states", most)
    keep, most = _keep(
        cell, steps, state, anatomy, tuning, most, inside=inside, calls=memory.num_live_cells
    )
    return Gradient(parts, inside, keep, most)


def _parts(cell: AffineCell, steps: Steps, state: State, tuning: Tuning) -> Parts:
    """Parts of the batch to run at the same time."""
    if tuning.parts < 2 or not are_known(steps.xs.shape):
        return WHOLE
    is_plain = (
        steps.resets is None
        and len(batch_shape_of(cell, steps)) == 1
        and jnp.finfo(steps.xs.dtype).bits >= 32
        and jax.sharding.get_abstract_mesh().empty
        and count_devices(default_device()) == 1
    )
    elements = steps.xs.shape[0] * _size(state)
    if not is_plain or elements < tuning.part_elements:
        return WHOLE
    (batch,) = batch_shape_of(cell, steps)
    count = min(tuning.parts, batch // tuning.part_rows)
    if count < 2:
        return WHOLE
    ends = [batch * part // count for part in range(count + 1)]
    return tuple(map(slice, ends, ends[1:]))


def _most_steps(cell: AffineCell, steps: Steps, state: State, tuning: Tuning) -> int:
    """Steps that a block may have on the way back."""
    if not are_known(steps.xs.shape):
        # Of any number of steps there is one block: how many others would have is not known.
        return steps.xs.shape[0]
    sequences = max(1, _count_sequences(cell, steps))
    elements = max(1, *(leaf.size for leaf in jax.tree.leaves(state)))
    return max(tuning.block_elements // elements, tuning.block_rows // sequences, 1)


def _keep(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    tuning: Tuning,
    most: int,
    *,
    inside: bool,
    calls: int,
) -> tuple[Keep, int]:
    """What is fastest to keep, and which of at most ``most`` steps a block should have."""
    if not tuning.keep_sums or not are_known(steps.xs.shape):
        return "sums" if tuning.keep_sums else "states", most
    if _keeps_projected(state, tuning):
        return "projected", most

    time, sequences = steps.xs.shape[0], max(1, _count_sequences(cell, steps))
    states = _size(state)
    projected = 0 if inside else _projected_size(cell, steps, state)
    parameters = _size(cell)
    width = max(leaf.size for leaf in jax.tree.leaves(state))
    least = min(most, max(tuning.least_steps, tuning.least_rows // sequences))

    # By what XLA allocates: two arrays for each derivative of a block, and a few others; of each
    # layer the outputs' cotangents, and what layers hand each other, joined and not.
    block = width * (2 * sum(map(len, anatomy.reads)) + 3)
    handed = width * (5 * calls // 2 - 1)

    def fitting(kept: int) -> int:
        """Steps of a block with which no fresh memory is needed; none if with no number."""
        room = tuning.fresh_elements - calls * (parameters + time * (states + kept))
        fit = min(most, (room - parameters // 2 - time * handed) // block)
        return fit if fit >= least and room >= 2 * time * projected else 0

    sums = width * (sum(anatomy.widths) + len(anatomy.direct))
    features = _count_features(cell, steps) + states // sequences
    if fit := fitting(sums):
        return "sums", fit
    fit = fitting(0)
    if features <= tuning.keep_features and (fit or calls == 1):
        return "states", fit or most
    return "sums", most


def _projected_size(cell: AffineCell, steps: Steps, state: State) -> int:
    """Elements of what one step projects."""
    _, projected = one_step(cast_params(cell, steps.xs.dtype), steps, state)
    return _size(projected)


def _project_inside(
    cell: AffineCell, steps: Steps, state: State, tuning: Tuning, memory: RematPolicy, parts: Parts
) -> bool:
    """Whether inputs are projected as they are read, where gradients are kept."""
    if tuning.inside_batch is None or not are_known(steps.xs.shape):
        return False
    if _count_sequences(cell, steps) < tuning.inside_batch:
        return False
    if steps.xs.shape[0] * _projected_size(cell, steps, state) >= tuning.inside_elements:
        return True
    if parts == WHOLE:
        return False
    keeps_projected = not memory.recompute and _keeps_projected(state, tuning)
    return not keeps_projected or _is_narrow(cell, steps, state)


def _keeps_projected(state: State, tuning: Tuning) -> bool:
    """Whether what is projected is the fastest to keep: of tiny steps and narrow layers."""
    return _width(state) <= tuning.keep_units or _size(state) <= tuning.keep_step


def _is_narrow(cell: AffineCell, steps: Steps, state: State) -> bool:
    """Whether inputs are no wider than states."""
    return _count_features(cell, steps) <= _width(state)


def _width(state: State) -> int:
    """Units of a layer."""
    return max(leaf.shape[-1] for leaf in jax.tree.leaves(state))


def _count_sequences(cell: AffineCell, steps: Steps) -> int:
    """Sequences of a batch."""
    return math.prod(batch_shape_of(cell, steps))


def _count_features(cell: AffineCell, steps: Steps) -> int:
    """Numbers of an input of one sequence."""
    return steps.xs[0].size // max(1, _count_sequences(cell, steps))


def _size(tree: Any) -> int:
    """Elements of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
