"""The loop with a derivative written by hand: fast where XLA compiles loops, on CPUs above all.

What autodiff of a scan costs, and what is done instead:

- It adds up the weights' gradients in the loop. Here the loop finds the gradients of the states
  only; those of the weights are products over many steps at once.
- It differentiates the gates step by step. Here that is done for many steps at once, outside of
  the loop, which is then linear in the states' gradients.
- It keeps a dozen arrays as large as all states. Here the sums that enter the gates are kept, or
  nothing but the states where memory costs more than computing the sums again, and the sequence is
  walked back in blocks that fit in a cache.
- A loop keeps one core busy. On a CPU, parts of a large batch run at the same time.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax.cells.anatomy import Anatomy
from gru_jax.cells.base import AffineCell, at_precision, widen
from gru_jax.derivative import with_pullback
from gru_jax.typing import Array, State
from gru_jax.unroll import scan
from gru_jax.unroll.block import Layout, sweep, sweep_parts
from gru_jax.unroll.call import Call, are_known, count_devices, likely_device
from gru_jax.unroll.control import Steps
from gru_jax.unroll.placement import vary_alike
from gru_jax.unroll.side_by_side import WHOLE, Parts, after, join
from gru_jax.unroll.walk import (
    Keep,
    Kept,
    anatomy_of,
    batch_shape_of,
    one_step,
    show,
    walk,
    walk_parts,
)
from gru_jax.unroll.walk_back import LARGE_BLOCK, walk_back


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
            the batch is one: where it is in parts, they share what a product per step takes.
        inside_elements_forward: likewise, where none are.
        inside_features: of an input, per sequence, up to which it is in any case where none are:
            a product per step reads all weights, and so loses little beside a large batch.
        keep_sums: whether the sums that enter the gates may be kept for the way back, and need not
            be computed again by one product over all steps of a block.
        keep_step: elements of a state up to which they are not: writing arrays step by step takes
            longer than the product.
        keep_units: the width of a layer up to which they are not, either.
        fresh_elements: that a call may take in all, by an estimate, without getting fresh memory:
            glibc hands more than 32 MiB back to the system after every call, and getting it again
            page by page takes longer than computing the sums again.
        least_steps, least_rows: that blocks may be reduced to for that.
        keep_features: of an input and a state together, up to which sums are computed again where
            fresh memory is needed in any case.
        transposed_rows: see :class:`~gru_jax.unroll.block.Layout`.
        parts: of a batch that run at the same time, at most, see
            :mod:`~gru_jax.unroll.side_by_side`.
        part_rows: sequences of a part, at least.
        part_parameters: of a cell, up to which there are parts where no gradients are kept. A
            core's cache does not hold more, and each part reads them at every step.
        part_elements: of a state over all steps and sequences, from which there are parts: a train
            step gains little from less, and there is more to compile.
    """

    block_elements: int = 2**17
    block_rows: int = 1280
    inside_batch: int | None = 8
    inside_elements: int = 2**21
    inside_elements_forward: int = 2**22
    inside_features: int = 8
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
    part_elements: int = 2**17


TUNING = Tuning(transposed_rows=12, parts=min(4, _count_cores()))
"""For CPUs, by measurement."""

ACCELERATOR = Tuning(block_elements=LARGE_BLOCK, inside_batch=None, keep_sums=False)
"""For devices where a step is bound by the launches of its kernels: each array that a loop writes
takes one, and each block takes a few more. Counted in compiled programs, not measured."""


def unsupported(call: Call) -> str | None:
    """Why this implementation cannot serve a call here; None where it can."""
    if jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        return "under a mesh with explicit axes, whose sharded axes it would have to join"
    if isinstance(call.cell, AffineCell):
        return None
    return (
        f"{type(call.cell).__name__} is not a gru_jax.AffineCell, whose products can be told apart"
    )


def run(
    cell: AffineCell, steps: Steps, state: State, *, reverse: bool, recompute: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time; with ``recompute`` nothing but the states is kept for gradients."""
    if not steps.xs.shape[0]:
        return scan.run(cell, steps, state, reverse=reverse, recompute=recompute)
    cell, steps, state = vary_alike((widen(cell), steps, state))

    tuning = TUNING if likely_device().platform == "cpu" else ACCELERATOR
    anatomy = anatomy_of(cell, steps, state)
    parts = _parts(cell, steps, state, tuning)
    inside = _project_inside(cell, steps, state, tuning, parts, gradient=True)
    if recompute:
        keep: Keep = "states"
        most_steps = _most_steps(cell, steps, state, tuning)
        # Or what is computed again at once would be as much as what was not kept.
        most_steps = min(most_steps, max(1, steps.xs.shape[0] // 8))
    else:
        keep, most_steps = _plan(cell, steps, state, anatomy, tuning, inside=inside)

    def run_forward(
        cell: AffineCell, steps: Steps, state: State, parts: Parts, **options: Any
    ) -> tuple[tuple[State, Array], tuple[AffineCell, Steps, State, list[Kept]]]:
        """The last state and the outputs, and what the way back needs."""
        if parts == WHOLE:
            last, kept = walk(cell, steps, state, anatomy, reverse=reverse, **options)
            ys = show(cell, kept.states, steps.valid, steps.xs.dtype)
            return (last, ys), (cell, steps, state, [kept])
        lasts, kept, zero = walk_parts(
            cell, steps, state, anatomy, parts=parts, reverse=reverse, **options
        )
        states = join([part.states for part in kept], axis=1)
        ys = after(zero, show(cell, states, steps.valid, steps.xs.dtype))
        return (join(lasts), ys), (cell, steps, after(zero, state), kept)

    def function(cell: AffineCell, steps: Steps, state: State) -> tuple[State, Array]:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(cell))
        chosen = parts if parameters <= tuning.part_parameters else WHOLE
        inside = _project_inside(cell, steps, state, tuning, chosen, gradient=False)
        options: Any = {"project_inside": inside}
        if chosen == WHOLE:
            return walk(cell, steps, state, anatomy, reverse=reverse, keep="outputs", **options)
        return run_forward(cell, steps, state, chosen, keep="states", **options)[0]

    def forward(
        cell: AffineCell, steps: Steps, state: State
    ) -> tuple[tuple[State, Array], tuple[AffineCell, Steps, State, list[Kept]]]:
        return run_forward(cell, steps, state, parts, keep=keep, project_inside=inside)

    def pullback(
        residuals: tuple[AffineCell, Steps, State, list[Kept]], cotangents: tuple[State, Array]
    ) -> tuple[AffineCell, Steps, State]:
        return walk_back(
            residuals,
            cotangents,
            anatomy,
            reverse=reverse,
            most_steps=most_steps,
            sweep=sweep if parts == WHOLE else functools.partial(sweep_parts, parts=parts),
            layout=Layout(parts != WHOLE, tuning.transposed_rows),
        )

    return with_pullback(function, forward, pullback)(cell, steps, state)


def _parts(cell: AffineCell, steps: Steps, state: State, tuning: Tuning) -> Parts:
    """Parts of the batch to run at the same time."""
    if tuning.parts < 2 or not are_known(steps.xs.shape):
        return WHOLE
    is_plain = (
        steps.resets is None
        and len(batch_shape_of(cell, steps)) == 1
        and jnp.finfo(steps.xs.dtype).bits >= 32
        and jax.sharding.get_abstract_mesh().empty
        and count_devices(likely_device()) == 1
    )
    elements = steps.xs.shape[0] * sum(leaf.size for leaf in jax.tree.leaves(state))
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
    sequences = max(1, math.prod(batch_shape_of(cell, steps)))
    elements = max(1, *(leaf.size for leaf in jax.tree.leaves(state)))
    return max(tuning.block_elements // elements, tuning.block_rows // sequences, 1)


def _plan(
    cell: AffineCell,
    steps: Steps,
    state: State,
    anatomy: Anatomy,
    tuning: Tuning,
    *,
    inside: bool,
) -> tuple[Keep, int]:
    """What is fastest to keep, and steps that a block may have on the way back."""
    most = _most_steps(cell, steps, state, tuning)
    if not tuning.keep_sums or not are_known(steps.xs.shape):
        return "sums" if tuning.keep_sums else "states", most
    leaves = jax.tree.leaves(state)
    states = sum(leaf.size for leaf in leaves)
    if states <= tuning.keep_step or max(leaf.shape[-1] for leaf in leaves) <= tuning.keep_units:
        return "projected", most

    time, sequences = steps.xs.shape[0], max(1, math.prod(batch_shape_of(cell, steps)))
    projected = 0 if inside else _projected_size(cell, steps, state)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(cell))
    width = max(leaf.size for leaf in leaves)
    least = min(most, max(tuning.least_steps, tuning.least_rows // sequences))

    # By what XLA allocates: two arrays for each derivative of a block, and a few others.
    block = width * (2 * sum(map(len, anatomy.reads)) + 3)

    def fitting(kept: int) -> int:
        """Steps of a block with which no fresh memory is needed; none if with no number."""
        room = tuning.fresh_elements - parameters - time * (states + kept + projected)
        fit = min(most, (room - parameters // 2 - time * width) // block)
        return fit if fit >= least and room >= time * projected else 0

    sums = width * (sum(anatomy.widths) + len(anatomy.direct))
    features = (steps.xs.size // time + states) // sequences
    if fit := fitting(sums):
        return "sums", fit
    if fit := fitting(0):
        return "states", fit
    return "states" if features <= tuning.keep_features else "sums", most


def _projected_size(cell: AffineCell, steps: Steps, state: State) -> int:
    """Elements of what one step projects."""
    _, projected = one_step(at_precision(cell, steps.xs.dtype), steps, state)
    return sum(leaf.size for leaf in jax.tree.leaves(projected))


def _project_inside(
    cell: AffineCell, steps: Steps, state: State, tuning: Tuning, parts: Parts, *, gradient: bool
) -> bool:
    """Whether inputs are projected as they are read."""
    if tuning.inside_batch is None or not are_known(steps.xs.shape):
        return False
    sequences = math.prod(batch_shape_of(cell, steps))
    if sequences < tuning.inside_batch:
        return False
    elements = steps.xs.shape[0] * _projected_size(cell, steps, state)
    if gradient:
        return parts != WHOLE or elements >= tuning.inside_elements
    features = steps.xs[0].size // sequences
    return (
        elements >= tuning.inside_elements_forward or features <= tuning.inside_features * sequences
    )
