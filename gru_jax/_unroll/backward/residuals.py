"""What the forward pass saves for the backward pass."""

from typing import Any, Literal, NamedTuple, TypeAlias

from gru_jax.typing import Array, State

Leaves: TypeAlias = list[Array]

ResidualPolicy: TypeAlias = Literal["states", "projected", "preactivations"]
"""What is saved of all steps: the states alone, or one of the others as well."""


class Residuals(NamedTuple):
    """What the forward pass saves of all steps, leaves (T, *batch, ...).

    Attributes:
        states: the state after each step.
        preactivations: of each matmul; None if they are recomputed.
        elementwise: projected leaves that the step uses elementwise; None with ``preactivations``.
        projected: the projected inputs, from which preactivations are recomputed; None if the
            inputs are projected again, too.
    """

    states: State
    preactivations: list[tuple[Array, ...]] | None = None
    elementwise: Leaves | None = None
    projected: Any = None
