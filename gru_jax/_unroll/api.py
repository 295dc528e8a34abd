"""The public functions: one step, a whole sequence, and a sequence with truncated gradients."""

import functools
from collections.abc import Sequence
from typing import Unpack

import jax

from gru_jax import _checks, typing
from gru_jax._autodiff.step_graph import node_types
from gru_jax._unroll import validation
from gru_jax._unroll.call_spec import CallOptions, CallSpec, make_call_spec
from gru_jax._unroll.carry import (
    initial_carry,
    match_carry_sharding,
    pvary_to_common_axes,
    reshard_like,
)
from gru_jax._unroll.chunks import run_with_remat
from gru_jax._unroll.dispatch import IMPLEMENTATIONS, select_implementation
from gru_jax._unroll.masking import ScanInputs, make_scan_inputs
from gru_jax._unroll.mesh import run_per_shard
from gru_jax._unroll.tbptt import run_truncated
from gru_jax._unroll.validation import CallArguments, validate_call
from gru_jax.cells.base import Cell
from gru_jax.cells.precision import cast_and_step, project, promote_params
from gru_jax.typing import Array, Inputs, Lengths, Outputs, State, TimeMask, UnrollOptions


def step(params: Cell, state: State, x: typing.StepInputs) -> State:
    """One step of a cell: the state after reading ``x``.

    The state comes before the input, as in the body of ``lax.scan``; :func:`unroll` takes them in
    the other order, because there the state is optional.

    Args:
        params: the cell, as :func:`gru_jax.init` returns one.
        state: (*batch, H) for a GRU; for others as :func:`initial_state` returns it.
        x: inputs (*batch, D).

    Returns:
        The new state, of the old one's shapes, dtypes and sharding.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit.
    """
    validation.check_cell(params)
    x = _checks.floating_array("x", x)
    batch_shape = validation.batch_shape_of("x", params, x, 0)
    state = validation.check_state("state", params, state, batch_shape)
    return _step(params, state, x, cell_types=node_types(params))


def initial_state(params: Cell, batch_shape: typing.Shape = ()) -> State:
    """The state before the first step: zeros, or the learned one.

    Args:
        params: the cell, or a :class:`gru_jax.Stack`, whose states are ``[layer][direction]``.
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
    implementation: typing.ImplementationName | None = None,
    checkpoint: typing.Checkpoint = None,
) -> tuple[State, Outputs]:
    """Runs a cell over a sequence: ``lax.scan`` of :func:`step`, in the same order of results.

    Matmuls run in the dtype of ``xs`` with float32 accumulation. Gates are computed in float32 at
    least. The state keeps the dtype of ``h0``, which is float32 at least if it is None.
    (``unroll`` is not loop unrolling, as the argument of ``lax.scan`` is.)

    Args:
        params: the cell, as :func:`gru_jax.init` returns one.
        xs: inputs (T, *batch, D); any number of batch axes, none too.
        h0: the state before the first step, leaves (*batch, H); an LSTM's may be a plain tuple
            ``(h, c)``. None for :func:`initial_state`.
        lengths: (*batch,) integers in [0, T]. Steps at and after a sequence's length do not change
            its state and give zero outputs. Under tracing, values out of range are clipped.
        mask: (T, *batch) booleans, or numbers of which those that are not zero are true. Where
            False, the state is held and the output is zero. What stands in ``xs`` there, NaN
            included, changes neither values nor gradients.
        starts: (T, *batch), as ``mask``. Where True, a new segment begins: the initial state (zeros
            or the learned h0, not the argument ``h0``) replaces the state before ``xs[t]`` is read,
            also where that step is masked, but not beyond a sequence's length. An episode's
            ``done[t]`` is ``starts[t + 1]``. Others call it ``resets`` (PureJaxRL), ``is_first``
            (RLDS, Dreamer) or ``episode_starts`` (Stable-Baselines3).
        reverse: read from the last valid step to the first; ``ys[t]`` stays aligned with
            ``xs[t]``. With ``starts``, every segment is read from its last step to its first:
            the state is replaced at step t where ``starts[t + 1]``. The segment that is read first
            begins with ``h0``, and ``starts[0]`` has no effect.
        implementation: ``"xla"`` has a custom derivative, ``"scan"`` is differentiated by JAX,
            ``"mosaic_gpu"`` and ``"pallas_tpu"`` are fused kernels for some GRUs on NVIDIA GPUs and
            on TPU. None selects the fastest implementation that supports the call and has been
            verified on this kind of device; :func:`gru_jax.explain` tells which, and why.
        checkpoint: what to save for the backward pass. None: whatever is fastest. ``"step"``: all
            states; gates are recomputed. ``"chunk"``: one state for each chunk of about sqrt(T)
            steps; chunks are rerun. An integer sets the steps of a chunk.

    Returns:
        ``(h_last, ys)``: the state after the last valid step, and outputs (T, *batch, H) in the
        dtype of ``xs``. A sequence of length 0 ends in ``h0``.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit, lengths out of range, an unknown option.
        NotImplementedError: the requested implementation does not support the call.
    """
    options = UnrollOptions(
        lengths=lengths,
        mask=mask,
        starts=starts,
        reverse=reverse,
        implementation=implementation,
        checkpoint=checkpoint,
    )
    return unroll_with_policy(params, xs, h0, **options)


def unroll_truncated(
    params: Cell,
    xs: Inputs,
    h0: State | None = None,
    *,
    window: int,
    **options: Unpack[UnrollOptions],
) -> tuple[State, Outputs]:
    """:func:`unroll` with truncated backpropagation through time (Williams & Peng 1990).

    Values are those of :func:`unroll`. Gradients do not cross from a window of ``window`` steps
    into the one that was read before it; the gradient with respect to ``h0`` comes from the
    window that is read first. For one update per window see :func:`tbptt_windows`.

    Args:
        params, xs, h0: as for :func:`unroll`.
        window: steps of a window, counted from the first step of ``xs``; the last window may be
            shorter.
        **options: ``lengths``, ``mask``, ``starts``, ``reverse``, ``implementation`` and
            ``checkpoint``, as for :func:`unroll`.

    Raises:
        TypeError, ValueError, NotImplementedError: as :func:`unroll`.
    """
    window = _checks.positive_int("window", window)
    return unroll_with_policy(params, xs, h0, window=window, **options)


@functools.partial(jax.jit, inline=True, static_argnames="cell_types")
def _step(params: Cell, state: State, x: Array, *, cell_types: tuple[type, ...]) -> State:
    del cell_types
    new = cast_and_step(params, state, project(params, x), x.dtype)
    # Sharding is part of its type, too, and a scan's carry keeps its type.
    return reshard_like(new, state)


def unroll_with_policy(
    params: Cell,
    xs: Inputs,
    h0: State | None,
    *,
    num_live_cells: int = 1,
    window: int | None = None,
    **options: Unpack[UnrollOptions],
) -> tuple[State, Outputs]:
    """:func:`unroll`, for what ``window`` and ``num_live_cells`` are in :class:`CallOptions`."""
    # What can be checked outside of a trace is, and the rest runs compiled.
    arguments = validate_call(params, xs, h0, options)
    if window is not None:
        validation.check_static_time("window", window, arguments.xs)
    return _unroll(arguments, make_call_options(params, options, window, num_live_cells))


def unroll_both(
    cells: Sequence[Cell],
    xs: Inputs,
    states: Sequence[State | None],
    *,
    num_live_cells: int,
    **options: Unpack[UnrollOptions],
) -> list[tuple[State, Outputs]]:
    """:func:`unroll` of two cells: the second reads in the other direction.

    An implementation that has ``run_both`` and supports the two calls runs them at once.
    """
    is_reverse = bool(options.get("reverse"))
    directions = [
        UnrollOptions({**options, "reverse": flag}) for flag in (is_reverse, not is_reverse)
    ]
    arguments = tuple(
        validate_call(cell, xs, state, each)
        for cell, state, each in zip(cells, states, directions, strict=True)
    )
    call_options = tuple(
        make_call_options(cell, each, None, num_live_cells)
        for cell, each in zip(cells, directions, strict=True)
    )
    return _unroll_both(arguments, call_options)


# Not inlined: a gradient that is taken outside of a jit then runs one program, which JAX caches.
@functools.partial(jax.jit, static_argnames="options")
def _unroll_both(
    arguments: tuple[CallArguments, ...], options: tuple[CallOptions, ...]
) -> list[tuple[State, Array]]:
    run = functools.partial(_run_both, options)
    return run_per_shard(run, arguments, lambda on: [(on.of_state, on.of_sequence)] * 2)


def _run_both(
    options: tuple[CallOptions, ...], arguments: Sequence[CallArguments], is_tensor_parallel: bool
) -> list[tuple[State, Array]]:
    prepared = [
        prepare_call(each, option, is_tensor_parallel=is_tensor_parallel)
        for each, option in zip(arguments, options, strict=True)
    ]
    specs, names, cells, h0 = zip(*prepared, strict=True)
    implementation = IMPLEMENTATIONS[names[0]]
    is_whole = options[0].checkpoint in (None, "step")
    supports_both = getattr(implementation, "supports_both", None)
    if not (is_whole and names[0] == names[1] and supports_both and supports_both(specs)):
        return list(map(_run, arguments, options, prepared))
    inputs = [
        make_scan_inputs(each.xs, each.controls, reverse=option.reverse)
        for each, option in zip(arguments, options, strict=True)
    ]
    return implementation.run_both(specs[0], cells, inputs, h0, reverse=options[0].reverse)


def make_call_options(
    params: Cell, options: UnrollOptions, window: int | None, num_live_cells: int
) -> CallOptions:
    """What a call is compiled for."""
    return CallOptions(
        node_types(params),
        bool(options.get("reverse")),
        options.get("implementation"),
        options.get("checkpoint"),
        window,
        num_live_cells,
    )


def prepare_call(
    arguments: CallArguments, options: CallOptions, *, is_tensor_parallel: bool
) -> tuple[CallSpec, str, Cell, State]:
    """A call's description, its implementation, its parameters in float32 at least, its carry."""
    params, xs, h0, _ = arguments
    # Outside of all loops, so that gradients accumulate in float32 over windows and chunks, too.
    params = promote_params(params, xs.dtype)
    spec = make_call_spec(params, xs, h0, options, is_tensor_parallel=is_tensor_parallel)
    h0 = initial_carry(params, xs) if h0 is None else h0
    return spec, select_implementation(options.requested, spec), params, h0


# Not inlined, as above.
@functools.partial(jax.jit, static_argnames="options")
def _unroll(arguments: CallArguments, options: CallOptions) -> tuple[State, Array]:
    def run(calls: Sequence[CallArguments], is_tensor_parallel: bool) -> tuple[State, Array]:
        (call,) = calls
        prepared = prepare_call(call, options, is_tensor_parallel=is_tensor_parallel)
        return _run(call, options, prepared)

    return run_per_shard(run, [arguments], lambda on: (on.of_state, on.of_sequence))


def _run(
    arguments: CallArguments, options: CallOptions, prepared: tuple[CallSpec, str, Cell, State]
) -> tuple[State, Array]:
    spec, implementation, params, h0 = prepared
    xs, checkpoint, reverse = arguments.xs, options.checkpoint, options.reverse
    inputs = make_scan_inputs(xs, arguments.controls, reverse=reverse)
    params, inputs, h0 = pvary_to_common_axes((params, inputs, h0))

    def run(inputs: ScanInputs, state: State) -> tuple[State, Array]:
        return IMPLEMENTATIONS[implementation].run(spec, params, inputs, state, reverse=reverse)

    if checkpoint not in (None, "step"):
        chunk_size = None if checkpoint == "chunk" else checkpoint
        run = functools.partial(run_with_remat, run, chunk_size=chunk_size, reverse=reverse)
    if options.window is not None:
        run = functools.partial(run_truncated, run, window=options.window, reverse=reverse)
    first = inputs.xs[0] if xs.shape[0] else inputs.xs.sum(axis=0)
    h0 = match_carry_sharding(
        lambda h: cast_and_step(params, h, project(params, first), xs.dtype), h0
    )
    return run(inputs, h0)
