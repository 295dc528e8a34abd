"""An affine cell's step taken apart: its products, and the elementwise functions between them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from gru_jax.cells.base import AffineCell, affine
from gru_jax.typing import Array, ProjectedInputs, State


class Anatomy(NamedTuple):
    """How the parts of a cell's step read each other.

    The elementwise part has as *inputs* the leaves of the state, the sums (all that
    :func:`affine` returns) and what is read directly of what was projected; as *outputs* the
    leaves of the new state, and those operands of products that are not leaves of the state.

    Attributes:
        state: the structure of a state.
        projected: the structure of what is projected.
        direct: leaves of what is projected that are read other than as addends of a product.
        widths: per product, how many sums it returns.
        links: per product, which leaf of the state its operand is; None where it is computed.
        reads: per output, the inputs that it depends on, in order.
        shown: leaves of a state that the cell's output depends on.
    """

    state: Any
    projected: Any
    direct: tuple[int, ...]
    widths: tuple[int, ...]
    links: tuple[int | None, ...]
    reads: tuple[tuple[int, ...], ...]
    shown: frozenset[int]

    def sums_of(self, product: int) -> range:
        """The inputs that are the sums of a product."""
        first = self.state.num_leaves + sum(self.widths[:product])
        return range(first, first + self.widths[product])

    @property
    def direct_inputs(self) -> range:
        """The inputs that are what is read directly of what was projected."""
        first = self.state.num_leaves + sum(self.widths)
        return range(first, first + len(self.direct))

    def operand_of(self, product: int) -> int:
        """The output that is a product's operand, for one that is computed."""
        return self.state.num_leaves + self.links[:product].count(None)

    def pick_direct(self, projected: ProjectedInputs) -> list[Array]:
        """What is read directly of what was projected."""
        leaves = jax.tree.leaves(projected)
        return [leaves[index] for index in self.direct]

    def evaluate(self, cell: AffineCell, inputs: Sequence[Any]) -> tuple[list[Array], list[Array]]:
        """The leaves of the new state and the operands of the products, from all inputs."""
        states = self.state.num_leaves
        sums = [
            tuple(inputs[at] for at in self.sums_of(product)) for product in range(len(self.widths))
        ]
        # Addends are nothing but added, and that is done: what is only added may be anything.
        projected = [jnp.zeros_like(inputs[0])] * self.projected.num_leaves
        for index, at in zip(self.direct, self.direct_inputs, strict=True):
            projected[index] = inputs[at]
        return _evaluate(
            cell,
            jax.tree.unflatten(self.state, inputs[:states]),
            jax.tree.unflatten(self.projected, projected),
            sums,
        )

    def diagonals(self, cell: AffineCell, inputs: Sequence[Array]) -> list[dict[int, Array]]:
        """Per output, its derivative with respect to each input that it reads: all diagonal."""
        rows = []
        for index, reads in enumerate(self.reads):

            def output(*read: Array, index: int = index, reads: tuple[int, ...] = reads) -> Array:
                values = list(inputs)
                for at, value in zip(reads, read, strict=True):
                    values[at] = value
                new, operands = self.evaluate(cell, values)
                computed = [
                    operand
                    for operand, link in zip(operands, self.links, strict=True)
                    if link is None
                ]
                return [*new, *computed][index]

            value, pull = jax.vjp(output, *(inputs[at] for at in reads))
            rows.append(dict(zip(reads, pull(jnp.ones_like(value)), strict=True)))
        return rows


def dissect(cell: AffineCell, state: State, projected: ProjectedInputs) -> Anatomy:
    """The anatomy of a cell's step, from the shapes of a state and of what is projected."""
    widths: list[int] = []
    links: list[int | None] = []

    def measure(state: State, projected: ProjectedInputs) -> list[Any]:
        _, calls = record(cell, state, projected)
        widths.extend(len(call) for call in calls)
        return calls

    sums = jax.eval_shape(measure, state, projected)

    def elementwise(state: State, sums: Any, projected: ProjectedInputs) -> list[Array]:
        new, operands = _evaluate(cell, state, projected, sums)
        leaves = jax.tree.leaves(state)
        computed = []
        for operand in operands:
            link = next((i for i, leaf in enumerate(leaves) if leaf is operand), None)
            links.append(link)
            if link is None:
                computed.append(operand)
        return [*new, *computed]

    reads = _dependencies(jax.make_jaxpr(elementwise)(state, sums, projected).jaxpr)
    first_projected = jax.tree.structure(state).num_leaves + sum(widths)
    direct = tuple(
        sorted(at - first_projected for at in set().union(*reads) if at >= first_projected)
    )
    # Of what was projected only the direct leaves stay inputs.
    place = {at: at for at in range(first_projected)}
    place |= {first_projected + leaf: first_projected + i for i, leaf in enumerate(direct)}
    return Anatomy(
        state=jax.tree.structure(state),
        projected=jax.tree.structure(projected),
        direct=direct,
        widths=tuple(widths),
        links=tuple(links),
        reads=tuple(tuple(sorted(place[at] for at in read)) for read in reads),
        shown=frozenset().union(*_dependencies(jax.make_jaxpr(cell.output)(state).jaxpr)),
    )


def record(
    cell: AffineCell,
    state: State,
    projected: ProjectedInputs,
    known_weights: Sequence[Array] | None = None,
) -> tuple[State, list[tuple[Array, ...]]]:
    """The new state, and what every call of :func:`affine` on the way returned.

    With ``known_weights``, from :func:`weights_of`, those are multiplied: what a cell makes of its
    parameters before it multiplies them need not be made in a loop.
    """
    calls = []

    def recording(
        operand: Array, weights: Array, addends: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        if known_weights is not None:
            weights = known_weights[len(calls)]
        sums = affine(operand, weights, addends)
        calls.append(sums)
        return sums

    return cell.combine(state, projected, recording), calls


def weights_of(cell: AffineCell, state: State, projected: ProjectedInputs) -> list[Array]:
    """The weights of every product, in order."""
    found = []

    def finding(
        operand: Array, weights: Array, addends: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        found.append(weights)
        return affine(operand, weights, addends)

    cell.combine(state, projected, finding)
    return found


def addends_of(
    cell: AffineCell, state: State, projected: ProjectedInputs, calls: Sequence[tuple[Array, ...]]
) -> list[list[Array | None]]:
    """What is added to every product: vectors, or as large as the sums that ``calls`` holds."""
    known, found = iter(calls), []

    def finding(
        operand: Array, weights: Array, addends: Sequence[Array | None]
    ) -> tuple[Array, ...]:
        sums = next(known)
        found.append(
            [
                addend
                if addend is None or addend.ndim == 1
                else jnp.broadcast_to(addend, total.shape)
                for addend, total in zip(addends, sums, strict=True)
            ]
        )
        return sums

    cell.combine(state, projected, finding)
    return found


def _evaluate(
    cell: AffineCell, state: State, projected: ProjectedInputs, calls: Sequence[tuple[Array, ...]]
) -> tuple[list[Array], list[Array]]:
    known, operands = iter(calls), []

    def given(operand: Array, weights: Array, addends: Sequence[Array | None]) -> tuple[Array, ...]:
        operands.append(operand)
        return next(known)

    return jax.tree.leaves(cell.combine(state, projected, given)), operands


def _dependencies(jaxpr: Jaxpr) -> list[set[int]]:
    """Per output, the arguments that it depends on."""
    sources: dict[Any, set[int]] = {var: {index} for index, var in enumerate(jaxpr.invars)}

    def of(atom: Any) -> set[int]:
        return set() if isinstance(atom, Literal) else sources.get(atom, set())

    for equation in jaxpr.eqns:
        together = set().union(*map(of, equation.invars))
        sources |= dict.fromkeys(equation.outvars, together)
    return [of(var) for var in jaxpr.outvars]
