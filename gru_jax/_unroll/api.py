"""The public functions: one step, a whole sequence, and a sequence with truncated gradients."""

import functools
from types import ModuleType
from typing import Literal, TypeAlias

import jax

from gru_jax import _checks
from gru_jax._unroll import reference as scan
from gru_jax._unroll.call_spec import CallSpec, RematPolicy, make_call_spec
from gru_jax._unroll.chunks import run_checkpointed, run_truncated
from gru_jax._unroll.fused import hopper as mosaic_gpu
from gru_jax._unroll.fused import tpu as pallas_tpu
from gru_jax._unroll.masking import Controls, Steps, check_controls, plan
from gru_jax._unroll.sharding import settle
from gru_jax._unroll.validation import batch_shape_of, check_cell, check_state
from gru_jax._unroll.xla import run as xla
from gru_jax.cells.base import Cell, accum_dtype, cast_and_step, project
from gru_jax.typing import Array, Inputs, Lengths, Outputs, Shape, State, StepInputs, TimeMask

Checkpoint: TypeAlias = Literal["step", "chunk"] | int | None

IMPLEMENTATIONS: dict[str, ModuleType] = {
    "mosaic_gpu": mosaic_gpu,
    "pallas_tpu": pallas_tpu,
    "xla": xla,
    "scan": scan,
}
"""Implementations by name, the fastest first: modules with ``unsupported_reasons`` and ``run``."""


def step(params: Cell, state: State, x: StepInputs) -> State:
    """One step of a cell: the state after reading ``x``.

    Args:
        params: the cell, as :func:`gru_jax.init` makes one.
        state: (*batch, H) for a GRU; for others what :func:`initial_state` gives.
        x: inputs (*batch, D).

    Returns:
        The new state, of the old one's shapes and dtypes.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit.
    """
    check_cell(params)
    x = _checks.floating_array("x", x)
    batch_shape = batch_shape_of("x", params, x, 0)
    state = check_state("state", params, state, batch_shape)
    return _step(params, state, x, kind=type(params))


def initial_state(params: Cell, batch_shape: Shape = ()) -> State:
    """The state before the first step: zeros, or the learned one.

    Args:
        params: the cell, or a :class:`gru_jax.Stack`, whose states come as ``[layer][direction]``.
        batch_shape: axes of the batch, () for a single sequence.

    Returns:
        A state with leaves (*batch, H), float32 at least.
    """
    if not callable(getattr(params, "initial_state", None)):
        raise TypeError(f"params must be a gru_jax.Cell or Stack, got {type(params).__name__}")
    if not isinstance(batch_shape, tuple):
        raise TypeError(f"batch_shape must be a tuple of integers, got {batch_shape!r}")
    params.validate()
    return params.initial_state(batch_shape)


def unroll(
    params: Cell,
    xs: Inputs,
    h0: State | None = None,
    *,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
    reverse: bool = False,
    implementation: str | None = None,
    checkpoint: Checkpoint = None,
) -> tuple[State, Outputs]:
    """Runs a cell over a sequence: ``lax.scan`` of :func:`step`, in the same order of results.

    Products run in the dtype of ``xs`` with float32 accumulation; gates are computed in float32
    at least; the state keeps the dtype of ``h0``, which is float32 at least where it is None.

    Args:
        params: the cell, as :func:`gru_jax.init` makes one.
        xs: inputs (T, *batch, D); any number of batch axes, none too.
        h0: the state before the first step, leaves (*batch, H); None for
            :func:`initial_state`.
        lengths: (*batch,) integers in [0, T]. Steps at and after a sequence's length leave its
            state as it is and give zeros. Under tracing, values beyond the range are clipped.
        mask: (T, *batch) booleans. Where False, the state is held and the output is zero. What
            stands in ``xs`` there, NaN included, changes neither values nor gradients.
        starts: (T, *batch) booleans. Where True, a new segment begins: the state becomes the
            initial one (zeros or the learned h0; not the ``h0`` handed in) before ``xs[t]`` is
            read, also where that step is masked, but not beyond a sequence's length. For
            episodes of reinforcement learning, ``done[t]`` is ``starts[t + 1]``.
        reverse: read from the last valid step to the first; ``ys[t]`` stays aligned with
            ``xs[t]``. With ``starts``, every segment is read from its last step to its first:
            the state is replaced on entering step t where ``starts[t + 1]``. The segment that
            is read first begins with ``h0``, and ``starts[0]`` changes nothing.
        implementation: ``"xla"``, whose derivative is written by hand, ``"scan"``, which is
            differentiated by JAX, ``"mosaic_gpu"`` and ``"pallas_tpu"``, fused kernels for some
            GRUs on Hopper GPUs and on TPU, or None for the fastest that serves the call and has
            run on such a device.
        checkpoint: what to keep for the gradient. None: what makes it fastest, on a CPU all that
            enters the gates, or the states alone. ``"step"``: the states, gates are computed
            again. ``"chunk"``: a state for every chunk of about sqrt(T) steps, chunks are run
            again; an integer: chunks of that many steps.

    Returns:
        ``(h_last, ys)``: the state after the last valid step, and outputs (T, *batch, H) in the
        dtype of ``xs``. A sequence of length 0 ends in ``h0``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit, lengths out of range, an unknown option.
        NotImplementedError: the implementation asked for cannot serve the call.
    """
    return unroll_with_policy(
        1, params, xs, h0, lengths, mask, starts, reverse, implementation, checkpoint
    )


def unroll_truncated(
    params: Cell,
    xs: Inputs,
    h0: State | None = None,
    *,
    window: int,
    lengths: Lengths | None = None,
    mask: TimeMask | None = None,
    starts: TimeMask | None = None,
    reverse: bool = False,
    implementation: str | None = None,
    checkpoint: Checkpoint = None,
) -> tuple[State, Outputs]:
    """:func:`unroll` with backpropagation through time truncated (Williams & Peng 1990).

    Values are those of :func:`unroll`. Gradients do not cross from a window of ``window`` steps
    into the one that was read before it; the gradient with respect to ``h0`` comes from the
    window that is read first. For an update per window see :func:`tbptt_windows`.

    Args:
        params, xs, h0, lengths, mask, starts, reverse, implementation, checkpoint: as for
            :func:`unroll`.
        window: steps of a window, counted from the first step of ``xs``; the last window may be
            shorter.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`unroll`.
    """
    window = _checks.positive_int("window", window)
    return unroll_with_policy(
        1, params, xs, h0, lengths, mask, starts, reverse, implementation, checkpoint, window
    )


# The class of the parameters is an argument of its own: jax.jit tells trees apart by structures
# whose equality ignores the class of a registered dataclass, so that one cell could be given the
# program of another.
@functools.partial(jax.jit, inline=True, static_argnames="kind")
def _step(params: Cell, state: State, x: Array, *, kind: type[Cell]) -> State:
    del kind
    return cast_and_step(params, state, project(params, x), x.dtype)


def unroll_with_policy(
    calls: int,
    params: Cell,
    xs: Inputs,
    h0: State | None,
    lengths: Lengths | None,
    mask: TimeMask | None,
    starts: TimeMask | None,
    reverse: bool,
    implementation: str | None,
    checkpoint: Checkpoint,
    window: int | None = None,
) -> tuple[State, Outputs]:
    """:func:`unroll`, as one of several calls that together have their gradients computed."""
    # What can be checked outside of a trace is, and the rest runs compiled.
    check_cell(params)
    xs = _checks.floating_array("xs", xs)
    batch_shape = batch_shape_of("xs", params, xs, 1)
    if h0 is not None:
        h0 = check_state("h0", params, h0, batch_shape)
    controls = check_controls((xs.shape[0], *batch_shape), lengths, mask, starts)
    _checks.one_of("reverse", reverse, (False, True))
    if isinstance(checkpoint, str):
        _checks.one_of("checkpoint", checkpoint, ("step", "chunk"))
    elif checkpoint is not None:
        _checks.positive_int("checkpoint", checkpoint)
    return _unroll(
        params,
        xs,
        h0,
        controls,
        kind=type(params),
        reverse=bool(reverse),
        implementation=_choose(
            implementation,
            make_call_spec(params, xs, h0, is_explicit=implementation is not None),
        ),
        checkpoint=checkpoint,
        window=window,
        remat=RematPolicy(recompute=checkpoint == "step", num_live_cells=calls),
    )


@functools.partial(
    jax.jit,
    inline=True,
    static_argnames=("kind", "reverse", "implementation", "checkpoint", "window", "remat"),
)
def _unroll(
    params: Cell,
    xs: Array,
    state: State | None,
    controls: Controls,
    *,
    kind: type[Cell],
    reverse: bool,
    implementation: str,
    checkpoint: Checkpoint,
    window: int | None,
    remat: RematPolicy,
) -> tuple[State, Array]:
    del kind
    if state is None:
        dtype = accum_dtype(xs.dtype)
        batch_shape = batch_shape_of("xs", params, xs, 1)
        state = jax.tree.map(lambda leaf: leaf.astype(dtype), params.initial_state(batch_shape))

    spec = make_call_spec(params, xs, state, is_explicit=True, remat=remat)

    def run(steps: Steps, state: State) -> tuple[State, Array]:
        return IMPLEMENTATIONS[implementation].run(spec, params, steps, state, reverse=reverse)

    if checkpoint not in (None, "step"):
        chunk = None if checkpoint == "chunk" else checkpoint
        run = functools.partial(run_checkpointed, run, window=chunk, reverse=reverse)
    if window is not None:
        run = functools.partial(run_truncated, run, window=window, reverse=reverse)
    steps = plan(xs, controls, reverse=reverse)
    if xs.shape[0]:
        first = steps.xs[0]
        state = settle(lambda h: cast_and_step(params, h, project(params, first), xs.dtype), state)
    return run(steps, state)


def _choose(implementation: str | None, spec: CallSpec) -> str:
    if implementation is None:
        return next(
            name
            for name, candidate in IMPLEMENTATIONS.items()
            if not candidate.unsupported_reasons(spec)
        )
    _checks.one_of("implementation", implementation, IMPLEMENTATIONS)
    if reasons := IMPLEMENTATIONS[implementation].unsupported_reasons(spec):
        raise NotImplementedError(
            f'implementation="{implementation}" is not supported here: {"; ".join(reasons)}'
        )
    return implementation
