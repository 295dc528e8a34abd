"""The loop with a derivative written by hand: fast where XLA compiles loops, on CPUs above all.

What autodiff of a scan costs, and what is done instead:

- It adds up the weights' gradients in the loop. Here the loop finds the gradients of the states
  only; those of the weights are products over many steps at once.
- It differentiates the gates step by step. Here that is done for many steps at once, outside of
  the loop, which is then linear in the states' gradients.
- It keeps a dozen arrays as large as all states. Here the sums that enter the gates are kept, or
  nothing but the states, and the sequence is walked back in blocks that fit in a cache.
"""

import dataclasses
import math

import jax

from gru_jax.cells.base import AffineCell, at_precision, widen
from gru_jax.derivative import with_pullback
from gru_jax.typing import Array, State
from gru_jax.unroll import scan
from gru_jax.unroll.call import Call, likely_device
from gru_jax.unroll.control import Steps
from gru_jax.unroll.placement import vary_alike
from gru_jax.unroll.walk import Kept, batch_shape_of, one_step, show, walk
from gru_jax.unroll.walk_back import LARGE_BLOCK, walk_back


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What speed depends on, and values do not.

    Attributes:
        block_elements: of a state over the steps of a block on the way back. Half a MiB in
            float32, of which a dozen are at work: what stays in a cache.
        block_rows: steps times sequences that a block has at least, lest adding up the blocks'
            gradients of the weights, which may be large, weighs more than computing them.
        inside_elements: of all that is projected, from which on that happens step by step.
            Ahead of the loop it is one efficient product; but what that writes is read again
            from memory, into whose fresh pages more time goes than a product per step loses.
            None: never.
        inside_batch: sequences below which a product per step loses more.
        keep_sums: whether the sums that enter the gates are kept for the way back, or computed
            again by one product over all steps of a block.
    """

    block_elements: int = 2**17
    block_rows: int = 1280
    inside_elements: int | None = 2**21
    inside_batch: int = 8
    keep_sums: bool = True


TUNING = Tuning()
"""For CPUs, by measurement."""

ACCELERATOR = Tuning(block_elements=LARGE_BLOCK, inside_elements=None, keep_sums=False)
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
    inside = _project_inside(cell, steps, state, tuning)

    def function(cell: AffineCell, steps: Steps, state: State) -> tuple[State, Array]:
        return walk(cell, steps, state, reverse=reverse, keep="outputs", project_inside=inside)

    def forward(
        cell: AffineCell, steps: Steps, state: State
    ) -> tuple[tuple[State, Array], tuple[AffineCell, Steps, State, Kept]]:
        keep = "sums" if tuning.keep_sums and not recompute else "states"
        last, kept = walk(cell, steps, state, reverse=reverse, keep=keep, project_inside=inside)
        ys = show(cell, kept.states, steps.valid, steps.xs.dtype)
        return (last, ys), (cell, steps, state, kept)

    def pullback(
        residuals: tuple[AffineCell, Steps, State, Kept], cotangents: tuple[State, Array]
    ) -> tuple[AffineCell, Steps, State]:
        return walk_back(
            residuals,
            cotangents,
            reverse=reverse,
            most_steps=_most_steps(cell, steps, state, recompute, tuning),
        )

    return with_pullback(function, forward, pullback)(cell, steps, state)


def _most_steps(
    cell: AffineCell, steps: Steps, state: State, recompute: bool, tuning: Tuning
) -> int:
    """Steps that a block may have on the way back."""
    sequences = max(1, math.prod(batch_shape_of(cell, steps)))
    elements = max(1, *(leaf.size for leaf in jax.tree.leaves(state)))
    most = max(tuning.block_elements // elements, tuning.block_rows // sequences, 1)
    if recompute:
        # Or what is computed again at once would be as much as what was not kept.
        most = min(most, max(1, steps.xs.shape[0] // 8))
    return most


def _project_inside(cell: AffineCell, steps: Steps, state: State, tuning: Tuning) -> bool:
    """Whether inputs are projected as they are read."""
    if tuning.inside_elements is None:
        return False
    _, projected = one_step(at_precision(cell, steps.xs.dtype), steps, state)
    elements = steps.xs.shape[0] * sum(leaf.size for leaf in jax.tree.leaves(projected))
    sequences = math.prod(batch_shape_of(cell, steps))
    return sequences >= tuning.inside_batch and elements >= tuning.inside_elements
