"""The dataflow graph of a cell's step: its matmuls, and the elementwise functions between them.

Everything that the backward pass knows of a cell comes from :func:`run_step`, which runs the
cell's equations with an ``affine`` that records its calls.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gru_jax._autodiff.elementwise import Source, analyse
from gru_jax.cells.base import AffineCell
from gru_jax.cells.linear import affine
from gru_jax.cells.precision import promote_state
from gru_jax.typing import Array, DType, ProjectedInputs, Shape, State

PROBE_BATCH = (7, 11)
"""Batch axes of the traced step, unlike those of a call: a constant of the state's shape shows."""


class Matmul(NamedTuple):
    """One call of ``affine`` in a step."""

    operand: Array
    weights: Array
    addends: tuple[Array | None, ...]
    preactivations: tuple[Array, ...]


class StepTrace(NamedTuple):
    """A step's new state, and its matmuls in order."""

    state: State
    matmuls: list[Matmul]


def run_step(
    cell: AffineCell,
    state: State,
    projected: ProjectedInputs,
    *,
    hoisted_weights: Sequence[Array] | None = None,
    preactivations: Sequence[tuple[Array, ...]] | None = None,
    skip_matmuls: bool = False,
) -> StepTrace:
    """Runs one step and records its matmuls.

    Args:
        cell, state, projected: as for ``cell.combine``.
        hoisted_weights: one array for each matmul, multiplied in place of the weights that the
            cell computes from its parameters.
        preactivations: known results of the matmuls; then none is computed.
        skip_matmuls: zeros are the results, for a trace of which only shapes or weights are read.
    """
    matmuls: list[Matmul] = []

    def affine_fn(
        operand: Array, weights: Array, addends: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        index = len(matmuls)
        if hoisted_weights is not None:
            weights = hoisted_weights[index]
        if skip_matmuls:
            width = weights.shape[-1] // max(1, len(addends))
            results = (jnp.zeros((*operand.shape[:-1], width), operand.dtype),) * len(addends)
        elif preactivations is None:
            results = affine(operand, weights, addends)
        else:
            results = preactivations[index]
        matmuls.append(Matmul(operand, weights, tuple(addends), results))
        return results

    return StepTrace(cell.combine(state, projected, affine_fn), matmuls)


@dataclasses.dataclass(frozen=True, eq=False)
class StepGraph:
    """Dataflow graph of one step; it holds for any batch.

    Inputs of the elementwise part, in order: state leaves, matmul results (preactivations), and
    projected leaves used elementwise. Outputs: new state leaves, then matmul operands that are
    computed rather than read from the state.

    Attributes:
        state_treedef, projected_treedef: tree structures.
        elementwise_leaves: projected leaves that are used other than as addends of a matmul.
        num_splits: into how many preactivations each matmul's result is split.
        operand_state_leaf: for each matmul the state leaf that is its operand, None if computed.
        dependencies: for each output the inputs that it depends on, ascending.
        output_state_leaves: state leaves that the cell's output depends on.
        violations: how the cell breaks the rule of :class:`AffineCell`; empty if it keeps it.
    """

    state_treedef: Any
    projected_treedef: Any
    elementwise_leaves: tuple[int, ...]
    num_splits: tuple[int, ...]
    operand_state_leaf: tuple[int | None, ...]
    dependencies: tuple[tuple[int, ...], ...]
    output_state_leaves: frozenset[int]
    violations: tuple[str, ...] = ()

    @property
    def num_states(self) -> int:
        """Leaves of a state."""
        return self.state_treedef.num_leaves

    def preactivation_slots(self, matmul: int) -> range:
        """The inputs that are a matmul's results."""
        first = self.num_states + sum(self.num_splits[:matmul])
        return range(first, first + self.num_splits[matmul])

    @property
    def elementwise_slots(self) -> range:
        """The inputs that are projected leaves used elementwise."""
        first = self.num_states + sum(self.num_splits)
        return range(first, first + len(self.elementwise_leaves))

    def operand_slot(self, matmul: int) -> int:
        """The output that is a matmul's operand, for one that is computed."""
        return self.num_states + self.operand_state_leaf[:matmul].count(None)

    def select_elementwise(self, projected: ProjectedInputs) -> list[Array]:
        """The projected leaves that are used elementwise."""
        leaves = jax.tree.leaves(projected)
        return [leaves[index] for index in self.elementwise_leaves]

    def preactivations(self, inputs: Sequence[Array]) -> list[tuple[Array, ...]]:
        """The matmuls' results among all inputs."""
        slots = map(self.preactivation_slots, range(len(self.num_splits)))
        return [tuple(inputs[slot] for slot in of_matmul) for of_matmul in slots]

    def previous_state(self, inputs: Sequence[Array]) -> State:
        """The state before the step, among all inputs."""
        return jax.tree.unflatten(self.state_treedef, inputs[: self.num_states])

    def elementwise(
        self, cell: AffineCell, inputs: Sequence[Array]
    ) -> tuple[list[Array], list[Array]]:
        """The leaves of the new state and every matmul's operand, from all inputs."""
        # Addends are part of the preactivations already: any array will do in their place.
        projected = [jnp.zeros_like(inputs[0])] * self.projected_treedef.num_leaves
        for leaf, slot in zip(self.elementwise_leaves, self.elementwise_slots, strict=True):
            projected[leaf] = inputs[slot]
        trace = run_step(
            cell,
            self.previous_state(inputs),
            jax.tree.unflatten(self.projected_treedef, projected),
            preactivations=self.preactivations(inputs),
        )
        return jax.tree.leaves(trace.state), [matmul.operand for matmul in trace.matmuls]

    def elementwise_jacobian(
        self, cell: AffineCell, inputs: Sequence[Array]
    ) -> list[dict[int, Array]]:
        """For each output its derivative with respect to each input it depends on, a diagonal."""

        def output(*read: Array, index: int) -> Array:
            values = list(inputs)
            for slot, value in zip(self.dependencies[index], read, strict=True):
                values[slot] = value
            new, operands = self.elementwise(cell, values)
            leaves = zip(operands, self.operand_state_leaf, strict=True)
            return [*new, *(operand for operand, leaf in leaves if leaf is None)][index]

        rows = []
        for index, slots in enumerate(self.dependencies):
            value, vjp = jax.vjp(
                functools.partial(output, index=index), *(inputs[slot] for slot in slots)
            )
            rows.append(dict(zip(slots, vjp(jnp.ones_like(value)), strict=True)))
        return rows


def trace_step(cell: AffineCell, features: Shape, dtype: DType) -> StepGraph:
    """The graph of a cell's step, and whether the step keeps the rule of :class:`AffineCell`.

    Args:
        cell: cast to compute with inputs of ``dtype``.
        features: the axes of one step's input of one sequence.
        dtype: of the inputs.
    """
    x = jax.ShapeDtypeStruct((*PROBE_BATCH, *features), dtype)
    state, projected = jax.eval_shape(
        lambda cell, x: (promote_state(cell.initial_state(PROBE_BATCH), dtype), cell.project(x)),
        cell,
        x,
    )
    preactivations = jax.eval_shape(
        lambda *step: [m.preactivations for m in run_step(*step, skip_matmuls=True).matmuls],
        cell,
        state,
        projected,
    )
    leaf_of_operand: list[int | None] = []

    def parts(
        cell: AffineCell, state: State, preactivations: Any, projected: ProjectedInputs
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """What the elementwise part computes, the addends, the weights."""
        leaves = jax.tree.leaves(state)
        trace = run_step(cell, state, projected, preactivations=preactivations)
        computed = jax.tree.leaves(trace.state)
        for matmul in trace.matmuls:
            leaf = next((i for i, leaf in enumerate(leaves) if leaf is matmul.operand), None)
            leaf_of_operand.append(leaf)
            if leaf is None:
                computed.append(matmul.operand)
        addends = [addend for matmul in trace.matmuls for addend in matmul.addends]
        return (
            computed,
            [addend for addend in addends if addend is not None],
            [matmul.weights for matmul in trace.matmuls],
        )

    arguments = (cell, state, preactivations, projected)
    traced, shapes = jax.make_jaxpr(parts, return_shape=True)(*arguments)
    kinds = ("parameter", "state", "preactivation", "projected")
    sources = [
        Source(kind, index)
        for kind, tree in zip(kinds, arguments, strict=True)
        for index in range(len(jax.tree.leaves(tree)))
    ]
    values = analyse(traced, sources, PROBE_BATCH)
    num_computed, num_addends = len(shapes[0]), len(shapes[1])
    computed, addends = values[:num_computed], values[num_computed : num_computed + num_addends]
    weights = values[num_computed + num_addends :]

    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(cell)]
    violations: dict[str, None] = {}
    for value in computed:
        for primitive in sorted(value.across):
            violations[f"{primitive} between its matmuls is not elementwise"] = None
        for source in sorted(value.sources):
            if source.kind == "parameter":
                violations[f"the parameter {names[source.position][1:]} is read outside affine"] = (
                    None
                )
    for value in (*computed, *addends):
        for primitive in sorted(value.constants):
            violations[f"a constant of the state's shape is made by {primitive}"] = None
    read = {s.position for value in computed for s in value.sources if s.kind == "preactivation"}
    first = 0
    for number, splits in enumerate(map(len, preactivations)):
        if not read & set(range(first, first + splits)):
            violations[
                f"the state does not depend on matmul {number}, but by an addend at most"
            ] = None
        first += splits
    if {s.kind for value in addends for s in value.sources} & {"state", "preactivation"}:
        violations["an addend of affine depends on the state"] = None
    if {s.kind for value in weights for s in value.sources} - {"parameter"}:
        violations["the weights of affine depend on the state or the inputs"] = None

    used = {s.position for value in computed for s in value.sources if s.kind == "projected"}
    num_states = len(jax.tree.leaves(state))
    first_projected = num_states + len(jax.tree.leaves(preactivations))
    slot = {Source("state", index): index for index in range(num_states)}
    slot |= {
        Source("preactivation", index): num_states + index
        for index in range(first_projected - num_states)
    }
    slot |= {Source("projected", leaf): first_projected + i for i, leaf in enumerate(sorted(used))}
    shown = analyse(
        jax.make_jaxpr(lambda cell, state: cell.output(state))(cell, state),
        [source for source in sources if source.kind in ("parameter", "state")],
        PROBE_BATCH,
    )
    return StepGraph(
        state_treedef=jax.tree.structure(state),
        projected_treedef=jax.tree.structure(projected),
        elementwise_leaves=tuple(sorted(used)),
        num_splits=tuple(map(len, preactivations)),
        operand_state_leaf=tuple(leaf_of_operand),
        dependencies=tuple(
            tuple(sorted(slot[source] for source in value.sources if source in slot))
            for value in computed
        ),
        output_state_leaves=frozenset(
            source.position for value in shown for source in value.sources if source.kind == "state"
        ),
        violations=tuple(violations),
    )
