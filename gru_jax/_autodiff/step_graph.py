"""The dataflow graph of a cell's step: its matmuls, and the elementwise functions between them.

Everything that the backward pass knows of a cell comes from :func:`run_step`, which runs the
cell's equations with an ``affine`` that records its calls.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gru_jax._autodiff.elementwise import Source, Value, analyse, opaque_matmul, uses_custom_vjp
from gru_jax._autodiff.rows import Origin, primitive_across_rows
from gru_jax.cells.base import AffineCell, AffineFn
from gru_jax.cells.linear import accum_dtype, affine
from gru_jax.cells.precision import cast_params, promote_state
from gru_jax.typing import Array, DType, ProjectedInputs, Shape, State


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
    cell: AffineCell, state: State, projected: ProjectedInputs, affine_fn: AffineFn = affine
) -> StepTrace:
    """Runs one step and records its matmuls, which ``affine_fn`` computes."""
    matmuls: list[Matmul] = []

    def record(operand: Array, weights: Array, addends: Sequence[Any]) -> tuple[Array, ...]:
        results = affine_fn(operand, weights, addends)
        matmuls.append(Matmul(operand, weights, tuple(addends), results))
        return results

    return StepTrace(cell.combine(state, projected, record), matmuls)


@dataclasses.dataclass(frozen=True, eq=False)
class StepGraph:
    """Dataflow graph of one step; it holds for any batch.

    Inputs of the elementwise part, in order: state leaves, matmul results (preactivations), and
    projected leaves used elementwise. Outputs: new state leaves, then matmul operands that are
    computed rather than read from the state.
    """

    state_treedef: Any
    projected_treedef: Any
    elementwise_leaves: tuple[int, ...]  # projected leaves used other than as addends of a matmul
    num_splits: tuple[int, ...]  # into how many preactivations each matmul's result is split
    operand_state_leaf: tuple[int | None, ...]  # of each matmul; None for an operand computed
    weights_leaf: tuple[int | None, ...]  # parameter of each matmul; None for weights computed
    dependencies: tuple[tuple[int, ...], ...]  # for each output the inputs it reads, ascending
    output_state_leaves: frozenset[int]  # state leaves that the cell's output depends on
    violations: tuple[str, ...] = ()  # how the cell breaks the rule of AffineCell

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

    def replay(
        self, cell: AffineCell, inputs: Sequence[Array], projected: ProjectedInputs
    ) -> StepTrace:
        """One step from all inputs, which contain the results of its matmuls."""
        state = jax.tree.unflatten(self.state_treedef, inputs[: self.num_states])
        remaining = iter(inputs[self.num_states :])

        def known(operand: Array, weights: Array, addends: Sequence[Any]) -> tuple[Array, ...]:
            return tuple(next(remaining) for _ in addends)

        return run_step(cell, state, projected, known)

    def elementwise(self, cell: AffineCell, inputs: Sequence[Array]) -> tuple[Any, list[Array]]:
        """The leaves of the new state and every matmul's operand, from all inputs."""
        # Addends are part of the preactivations already: any array will do in their place.
        projected = [jnp.zeros_like(inputs[0])] * self.projected_treedef.num_leaves
        for leaf, slot in zip(self.elementwise_leaves, self.elementwise_slots, strict=True):
            projected[leaf] = inputs[slot]
        trace = self.replay(cell, inputs, jax.tree.unflatten(self.projected_treedef, projected))
        return jax.tree.leaves(trace.state), [matmul.operand for matmul in trace.matmuls]

    def elementwise_jacobian(
        self, cell: AffineCell, inputs: Sequence[Array]
    ) -> list[dict[int, Array]]:
        """For each output its derivative with respect to each input it depends on, a diagonal."""

        def output(*read: Array, index: int) -> Array:
            values = list(inputs)
            for slot, value in zip(self.dependencies[index], read, strict=True):
                values[slot] = value.astype(inputs[slot].dtype)
            new, operands = self.elementwise(cell, values)
            leaves = zip(operands, self.operand_state_leaf, strict=True)
            return [*new, *(operand for operand, leaf in leaves if leaf is None)][index]

        rows = []
        for index, slots in enumerate(self.dependencies):
            read = [inputs[slot].astype(accum_dtype(inputs[slot].dtype)) for slot in slots]
            value, vjp = jax.vjp(functools.partial(output, index=index), *read)
            rows.append(dict(zip(slots, vjp(jnp.ones_like(value)), strict=True)))
        return rows


def trace_step(cell: AffineCell, features: Shape, dtype: DType) -> StepGraph:
    """The graph of a cell's step for inputs (..., *features), and how it breaks the rule, if so.

    Only the types of the parameters are read.
    """
    leaves, treedef = jax.tree.flatten(cell)
    avals = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    return _trace_step(node_types(cell), treedef, avals, features, dtype)


def node_types(tree: Any) -> tuple[type, ...]:
    """The classes of a tree's inner nodes.

    They are an argument of whatever is cached by a tree's structure: the equality of structures
    ignores the classes of registered dataclasses, so that one cell could be given the program of
    another.
    """
    level = jax.tree_util.default_registry.flatten_one_level(tree)
    if level is None:
        return ()
    return (type(tree), *(found for child in level[0] for found in node_types(child)))


@functools.lru_cache(maxsize=1024)
def _trace_step(
    cell_types: tuple[type, ...], treedef: Any, avals: Any, features: Shape, dtype: Any
) -> StepGraph:
    del cell_types
    # A batch whose sizes are not those of inputs and parameters: a constant of the state's shape
    # shows, and so does what computes along the batch. An axis that a method makes may have such a
    # size by chance; the cell then runs by "scan".
    others = {size for shape in (features, *(aval.shape for aval in avals)) for size in shape}
    rows = next(n for n in itertools.count(7) if others.isdisjoint({n, n + 4, n * (n + 4)}))
    batch = (rows, rows + 4)

    def arguments(cell: AffineCell, x: Array) -> tuple[AffineCell, State, ProjectedInputs]:
        cell = cast_params(cell, dtype)
        state = promote_state(cell.initial_state(batch), dtype)
        return cell, state, cell.project(x)

    x = jax.ShapeDtypeStruct((*batch, *features), dtype)
    inputs_jaxpr, shapes = jax.make_jaxpr(arguments, return_shape=True)(
        jax.tree.unflatten(treedef, avals), x
    )
    cell, state, projected = shapes
    num_splits: list[int] = []
    operand_state_leaf: list[int | None] = []
    weights_leaf: list[int | None] = []

    def affine_fn(operand: Array, weights: Array, addends: Sequence[Any]) -> tuple[Array, ...]:
        first, splits = sum(num_splits), len(addends)
        num_splits.append(splits)
        return tuple(opaque_matmul.bind(operand, weights, first=first, splits=splits))

    def parts(cell: AffineCell, state: State, projected: ProjectedInputs) -> tuple[Any, ...]:
        """What the elementwise part computes, the addends, the weights, the cell's output."""
        trace = run_step(cell, state, projected, affine_fn)
        computed = jax.tree.leaves(trace.state)
        for operand, weights, *_ in trace.matmuls:
            operand_state_leaf.append(_leaf_index(state, operand))
            weights_leaf.append(_leaf_index(cell, weights))
            if operand_state_leaf[-1] is None:
                computed.append(operand)
        addends = [addend for matmul in trace.matmuls for addend in matmul.addends]
        weights = [matmul.weights for matmul in trace.matmuls]
        return computed, addends, weights, cell.output(state)

    trees = {"parameter": cell, "state": state, "projected": projected}
    sources = [
        Source(kind, index)
        for kind, tree in trees.items()
        for index in range(len(jax.tree.leaves(tree)))
    ]
    traced, shapes = jax.make_jaxpr(parts, return_shape=True)(*trees.values())
    values = analyse(traced, [Value(frozenset([source])) for source in sources], batch)
    found = jax.tree.unflatten(jax.tree.structure(shapes), values)
    computed, addends, weights, outputs = (
        jax.tree.leaves(part, is_leaf=lambda leaf: isinstance(leaf, Value)) for part in found
    )

    output_jaxpr = jax.make_jaxpr(lambda cell, state: cell.output(state))(cell, state)

    num_states, num_preactivations = len(jax.tree.leaves(state)), sum(num_splits)
    used = sorted(_positions(computed, "projected"))
    inputs = [Source("state", index) for index in range(num_states)]
    inputs += [Source("preactivation", index) for index in range(num_preactivations)]
    inputs += [Source("projected", leaf) for leaf in used]
    return StepGraph(
        state_treedef=jax.tree.structure(state),
        projected_treedef=jax.tree.structure(projected),
        elementwise_leaves=tuple(used),
        num_splits=tuple(num_splits),
        operand_state_leaf=tuple(operand_state_leaf),
        weights_leaf=tuple(weights_leaf),
        dependencies=tuple(
            tuple(slot for slot, source in enumerate(inputs) if source in value.sources)
            for value in computed
        ),
        output_state_leaves=_positions(outputs, "state"),
        violations=tuple(
            dict.fromkeys(
                [
                    *_violations(computed, addends, weights, num_splits, cell, state, len(batch)),
                    *_unknown_derivatives("initial_state or project", inputs_jaxpr),
                    *_unknown_derivatives("combine or output", traced),
                    *_mixed_rows("project", inputs_jaxpr, 1, batch),
                    *_mixed_rows("output", output_jaxpr, len(jax.tree.leaves(state)), batch),
                ]
            )
        ),
    )


def _leaf_index(tree: Any, array: Array) -> int | None:
    """Which leaf of a tree is this very array."""
    return next((i for i, leaf in enumerate(jax.tree.leaves(tree)) if leaf is array), None)


def _positions(values: Sequence[Value], kind: str) -> frozenset[int]:
    """Which sources of a kind the values depend on."""
    sources = frozenset[Source]().union(*(value.sources for value in values))
    return frozenset(source.position for source in sources if source.kind == kind)


def _violations(
    computed: Sequence[Value],
    addends: Sequence[Value],
    weights: Sequence[Value],
    num_splits: Sequence[int],
    cell: AffineCell,
    state: State,
    batch_rank: int,
) -> Iterator[str]:
    """How a step breaks the rule."""
    paths = jax.tree_util.tree_leaves_with_path(cell)
    names = [jax.tree_util.keystr(path)[1:] for path, _ in paths]
    for name, leaf in zip(names, jax.tree.leaves(cell), strict=True):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            yield f"the parameter {name} is an array of {leaf.dtype}, which has no derivative"
    for leaf in jax.tree.leaves(state):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            yield f"the state has an array of {leaf.dtype}, which has no derivative"
        if leaf.ndim != batch_rank + 1:
            axes = leaf.ndim - batch_rank
            yield f"the state has {axes} axes after those of the batch, and one is supported"
    for value in computed:
        for primitive in sorted(value.across):
            yield f"{primitive} between its matmuls is not elementwise"
        for parameter in sorted(_positions([value], "parameter")):
            yield f"the parameter {names[parameter]} is read outside affine"
    for value in (*computed, *addends):
        for primitive in sorted(value.constants):
            yield f"a constant of the state's shape is made by {primitive}"
    read, first = _positions(computed, "preactivation"), 0
    for matmul, splits in enumerate(num_splits):
        if read.isdisjoint(range(first, first + splits)):
            yield f"the state does not depend on matmul {matmul}, but by an addend at most"
        first += splits
    if _positions(addends, "state") or _positions(addends, "preactivation"):
        yield "an addend of affine depends on the state"
    if any(source.kind != "parameter" for value in weights for source in value.sources):
        yield "the weights of affine depend on the state or the inputs"


def _unknown_derivatives(names: str, jaxpr: Any) -> Iterator[str]:
    """What methods compute whose derivative would be lost, or depend on how a call is split."""
    if any(isinstance(const, Tracer) for const in jaxpr.consts):
        yield f"{names} reads a traced value that is no parameter"
    if uses_custom_vjp(jaxpr):
        yield f"{names} uses jax.custom_vjp, whose derivative may not be linear"


def _mixed_rows(name: str, jaxpr: Any, num_rows: int, batch: Shape) -> Iterator[str]:
    """How a method computes across steps or sequences; rows are the last arguments of its jaxpr."""
    shared = len(jaxpr.in_avals) - num_rows
    origins = [Origin.SHARED] * shared + [Origin.ROWS] * num_rows
    _, found = primitive_across_rows(jaxpr, origins, batch)
    if found is not None:
        primitive, what = found
        yield f"{primitive} in {name} {what}"
