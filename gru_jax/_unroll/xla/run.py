"""The loop with a derivative written by hand: fast where XLA compiles loops, on CPUs above all.

What autodiff of a scan costs, and what is done instead:

- It adds up the weights' gradients in the loop. Here the loop finds the gradients of the states
  only; those of the weights are products over many steps at once.
- It differentiates the gates step by step. Here that is done for many steps at once, outside of
  the loop, which is then linear in the states' gradients.
- It keeps a dozen arrays as large as all states. Here the sums that enter the gates are kept,
  or what is projected, or nothing but the states, by what memory costs, and the sequence is walked
  back in blocks that fit in a cache.
- A loop keeps one core busy. On a CPU, parts of a large batch run at the same time.
"""

import functools
from typing import Any

import jax

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from gru_jax._unroll import reference as scan
from gru_jax._unroll.backward.backward_pass import walk_back
from gru_jax._unroll.backward.chunk import Layout, sweep, sweep_parts
from gru_jax._unroll.call_spec import CallSpec, default_device
from gru_jax._unroll.chunks import run_windows
from gru_jax._unroll.masking import Steps
from gru_jax._unroll.sharding import vary_alike
from gru_jax._unroll.xla.concurrent_scan import WHOLE, Parts, after, join
from gru_jax._unroll.xla.forward import Kept, anatomy_of, show, walk, walk_parts
from gru_jax._unroll.xla.schedule import ACCELERATOR, TUNING, plan_forward, plan_gradient
from gru_jax.cells.base import AffineCell, promote_params
from gru_jax.typing import Array, State


def unsupported_reasons(spec: CallSpec) -> list[str]:
    """Every reason why this implementation does not support a call; empty if it does."""
    reasons = []
    if jax.sharding.AxisType.Explicit in jax.sharding.get_abstract_mesh().axis_types:
        reasons.append("it would have to join sharded axes of a mesh with explicit axes")
    if not isinstance(spec.cell, AffineCell):
        cell = type(spec.cell).__name__
        reasons.append(f"{cell} is not a gru_jax.AffineCell, whose matmuls it could tell apart")
    return reasons


def run(
    spec: CallSpec, cell: AffineCell, steps: Steps, state: State, *, reverse: bool
) -> tuple[State, Array]:
    """Runs ``cell`` over time; ``spec.remat`` says what is kept for gradients."""
    if not steps.xs.shape[0]:
        return scan.run(spec, cell, steps, state, reverse=reverse)
    cell, steps, state = vary_alike((promote_params(cell), steps, state))

    tuning = TUNING if default_device().platform == "cpu" else ACCELERATOR
    anatomy = anatomy_of(cell, steps, state)
    plan = plan_gradient(cell, steps, state, anatomy, tuning, spec.remat)

    def run_forward(
        cell: AffineCell, steps: Steps, state: State, parts: Parts, **options: Any
    ) -> tuple[tuple[State, Array], tuple[AffineCell, Steps, State, list[Kept]]]:
        """The last state and the outputs, and what the way back needs."""
        if parts == WHOLE:
            last, kept = walk(cell, steps, state, anatomy, **options)
            ys = show(cell, kept.states, steps.valid, steps.xs.dtype)
            return (last, ys), (cell, steps, state, [kept])
        lasts, kept, zero = walk_parts(cell, steps, state, anatomy, parts=parts, **options)
        states = join([part.states for part in kept], axis=1)
        ys = after(zero, show(cell, states, steps.valid, steps.xs.dtype))
        return (join(lasts), ys), (cell, steps, after(zero, state), kept)

    def function(cell: AffineCell, steps: Steps, state: State) -> tuple[State, Array]:
        parts, inside, window = plan_forward(cell, steps, state, tuning)
        options: Any = {"reverse": reverse, "project_inside": inside}

        def run_whole(steps: Steps, state: State) -> tuple[State, Array]:
            if parts != WHOLE:
                return run_forward(cell, steps, state, parts, keep="states", **options)[0]
            return walk(cell, steps, state, anatomy, keep="outputs", **options)

        if window is None:
            return run_whole(steps, state)
        return run_windows(run_whole, steps, state, window=window, reverse=reverse)

    def forward(
        cell: AffineCell, steps: Steps, state: State
    ) -> tuple[tuple[State, Array], tuple[AffineCell, Steps, State, list[Kept]]]:
        options: Any = {"reverse": reverse, "project_inside": plan.inside}
        return run_forward(cell, steps, state, plan.parts, keep=plan.keep, **options)

    def pullback(
        residuals: tuple[AffineCell, Steps, State, list[Kept]], cotangents: tuple[State, Array]
    ) -> tuple[AffineCell, Steps, State]:
        apart = plan.parts != WHOLE
        return walk_back(
            residuals,
            cotangents,
            anatomy,
            reverse=reverse,
            most_steps=plan.most_steps,
            sweep=functools.partial(sweep_parts, parts=plan.parts) if apart else sweep,
            layout=Layout(apart, tuning.transposed_rows),
        )

    return custom_vjp_with_jvp(function, forward, pullback)(cell, steps, state)
