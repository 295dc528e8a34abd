"""Which implementation a call of :func:`gru_jax.unroll` takes, and why."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, overload

import jax

from gru_jax._unroll.api import make_call_options, prepare_call
from gru_jax._unroll.chunks import default_chunk_size
from gru_jax._unroll.dispatch import IMPLEMENTATIONS
from gru_jax._unroll.masking import make_scan_inputs
from gru_jax._unroll.mesh import find_batch_sharding, run_per_shard
from gru_jax._unroll.validation import CallArguments, validate_call
from gru_jax.cells.base import Cell
from gru_jax.stack import Stack, unroll_stack
from gru_jax.typing import (
    Inputs,
    State,
    UnrollOptions,
)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What a call of :func:`gru_jax.unroll` does; ``str`` of it is a table.

    Attributes:
        implementation: the name of the implementation that the call takes.
        reasons: for each implementation every reason why it does not support the call.
        details: what the implementation does with the call.
    """

    implementation: str
    reasons: Mapping[str, tuple[str, ...]]
    details: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{'implementation':16}{'taken':7}why not"]
        for name, reasons in self.reasons.items():
            taken = name == self.implementation
            preferred = f'supported, but "{self.implementation}" is faster'
            notes = reasons or ("" if taken else preferred,)
            for index, note in enumerate(notes):
                label, answer = (name, "yes" if taken else "no") if not index else ("", "")
                lines.append(f"{label:16}{answer:7}{note}".rstrip())
        return "\n".join([*lines, "", *(f"- {detail}" for detail in self.details)])


@dataclasses.dataclass(frozen=True)
class StackExplanation:
    """What a call of :func:`gru_jax.unroll_stack` does.

    Attributes:
        layers: ``layers[layer][direction]``, the explanation of each cell.
    """

    layers: tuple[tuple[Explanation, ...], ...]

    @property
    def implementation(self) -> str:
        """The implementation of all cells; names joined by commas if they differ."""
        names = [cell.implementation for layer in self.layers for cell in layer]
        return ", ".join(dict.fromkeys(names))

    def __str__(self) -> str:
        return "\n\n".join(
            f"layer {index}, {'backward' if direction else 'forward'}\n{cell}"
            for index, layer in enumerate(self.layers)
            for direction, cell in enumerate(layer)
        )


@overload
def explain(
    params: Cell, xs: Inputs, h0: State | None = None, **options: Unpack[UnrollOptions]
) -> Explanation: ...
@overload
def explain(
    params: Stack, xs: Inputs, h0: Any = None, **options: Unpack[UnrollOptions]
) -> StackExplanation: ...
def explain(
    params: Cell | Stack, xs: Inputs, h0: State | None = None, **options: Unpack[UnrollOptions]
) -> Explanation | StackExplanation:
    """Tells which implementation the same call of :func:`gru_jax.unroll` takes here, and why.

    Nothing is computed: any array may be a :class:`jax.ShapeDtypeStruct`. Works inside ``jit``.

    Args:
        params: a cell, or a :class:`gru_jax.Stack` for a call of :func:`gru_jax.unroll_stack`.
        xs, h0: as for ``unroll``.
        **options: ``lengths``, ``mask``, ``starts``, ``reverse``, ``implementation`` and
            ``checkpoint``, as for ``unroll``.

    Returns:
        An :class:`Explanation`, of a stack a :class:`StackExplanation`. ``.implementation`` is the
        name; ``str`` is a table with a row for each implementation and every reason against it,
        and below it what the chosen one does.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``unroll``.
    """
    if isinstance(params, Stack):
        return _explain_stack(params, xs, h0, options)
    return _explain_cell(params, xs, h0, options, num_live_cells=1)


def _explain_stack(stack: Stack, xs: Any, states: Any, options: UnrollOptions) -> StackExplanation:
    num_cells = sum(map(len, stack.layers))
    layers = []
    for index, layer in enumerate(stack.layers):
        if index:
            below = dataclasses.replace(stack, layers=stack.layers[:index])
            xs_of_layer = jax.eval_shape(unroll_stack, below, xs)[1]
        else:
            xs_of_layer = xs
        cells = []
        for direction, cell in enumerate(layer):
            reverse = options.get("reverse", False) != bool(direction)
            state = None if states is None else states[index][direction]
            cell_options: Any = {**options, "reverse": reverse}
            cells.append(
                _explain_cell(cell, xs_of_layer, state, cell_options, num_live_cells=num_cells)
            )
        layers.append(tuple(cells))
    return StackExplanation(tuple(layers))


def _explain_cell(
    params: Cell, xs: Any, h0: State | None, options: UnrollOptions, *, num_live_cells: int
) -> Explanation:
    arrays = {name: options.get(name) for name in ("lengths", "mask", "starts")}
    found: list[Explanation] = []

    def look(params: Cell, xs: Any, h0: Any, arrays: Any) -> tuple[()]:
        traced: Any = {**options, **arrays}
        found.append(_explain(validate_call(params, xs, h0, traced), traced, num_live_cells))
        return ()

    jax.eval_shape(look, params, xs, h0, arrays)
    return found[0]


def _explain(arguments: CallArguments, options: UnrollOptions, num_live_cells: int) -> Explanation:
    found: list[Explanation] = []

    def look(calls: Sequence[CallArguments], is_tensor_parallel: bool) -> tuple[()]:
        (call,) = calls
        found.append(_explain_shard(call, options, num_live_cells, is_tensor_parallel))
        return ()

    run_per_shard(look, [arguments], lambda on: ())
    spread = find_batch_sharding([arguments])
    if spread is None:
        return found[0]
    _, sharding = spread
    details = (*sharding.describe(), *found[0].details)
    return dataclasses.replace(found[0], details=details)


def _explain_shard(
    arguments: CallArguments, options: UnrollOptions, num_live_cells: int, is_tensor_parallel: bool
) -> Explanation:
    """What one device does with the sequences that it holds."""
    checkpoint = options.get("checkpoint")
    call_options = make_call_options(arguments.params, options, None, num_live_cells)
    spec, implementation, params, h0 = prepare_call(
        arguments, call_options, is_tensor_parallel=is_tensor_parallel
    )
    details = []
    if spec.is_partitioned:
        details.append(
            "devices: in a program for several, each runs the sequences that it holds, with all "
            "parameters"
        )
    reverse = options.get("reverse", False)
    inputs = make_scan_inputs(arguments.xs, arguments.controls, reverse=reverse)
    if checkpoint not in (None, "step"):
        time = arguments.xs.shape[0]
        steps = default_chunk_size(time) if checkpoint == "chunk" else checkpoint
        details.append(f"rematerialisation: one state per chunk of {steps} steps; chunks are rerun")
        inputs = jax.tree.map(lambda leaf: leaf[:steps], inputs)
    details += IMPLEMENTATIONS[implementation].describe(spec, params, inputs, h0)
    if inputs.valid is not None:
        details.append("mask: every step is computed, and replaced where it is masked")
    if inputs.resets is not None:
        details.append("starts: the state is replaced within the loop; nothing else changes")
    reasons = {
        name: tuple(module.unsupported_reasons(spec)) for name, module in IMPLEMENTATIONS.items()
    }
    return Explanation(implementation, reasons, tuple(details))
