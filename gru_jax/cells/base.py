"""The interface of a cell: frozen parameters that know one step of a recurrence."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

from gru_jax._repr import has_parameter, repr_with_shapes
from gru_jax.cells.linear import affine
from gru_jax.typing import Array, ProjectedInputs, Shape, State


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cell:
    """Interface of a recurrent cell: a frozen dataclass, registered as a pytree.

    Decorate a subclass with ``@jax.tree_util.register_dataclass`` and
    ``@dataclasses.dataclass(frozen=True, eq=False)``. Its fields are arrays (None for a
    parameter that the model does not have) and hyper-parameters marked
    ``metadata=dict(static=True)``. Fill in :meth:`initial_state`, :meth:`project` and
    :meth:`recur`, or derive from :class:`AffineCell`. The cell then runs under
    :func:`gru_jax.unroll` with all of its arguments, and in a stack.

    The methods receive arrays in the right precision: matrices in the inputs' dtype, vectors,
    states and projected inputs in float32 at least. :func:`gru_jax.cells.dot` multiplies
    accordingly.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The decorator gives a class a repr that prints all numbers, unless the class has its own.
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__

    num_feature_axes: ClassVar[int] = 1
    """How many trailing axes of an input belong to one step of one sequence."""

    @property
    def input_size(self) -> int | None:
        """Features of an input, checked by :func:`gru_jax.unroll`; None if any will do."""
        return None

    def validate(self) -> None:
        """Raises ValueError or TypeError if the parameters do not fit together."""

    def initial_state(self, batch_shape: Shape = ()) -> State:
        """The state before the first step, its leaves of shape (*batch, ...)."""
        raise NotImplementedError

    def project(self, xs: Array) -> ProjectedInputs:
        """All that can be computed for every step at once: (..., input) -> leaves (..., ...).

        It computes each step of each sequence by itself, for it is called with all of them, with
        some or with one.
        """
        raise NotImplementedError

    def recur(self, state: State, projected: ProjectedInputs) -> State:
        """The next state, from the last one and this step's projected inputs."""
        raise NotImplementedError

    def output(self, state: State) -> Array:
        """The output of a step, from its new state; may use parameters.

        It is called with many states at once, in axes before those of one state, and computes each
        by itself.
        """
        return state

    __repr__ = repr_with_shapes
    __contains__ = has_parameter


AffineFn: TypeAlias = Callable[[Array, Array, Sequence[Array | None]], tuple[Array, ...]]
"""``(operand, weights, addends) -> preactivations``, see :func:`gru_jax.cells.affine`."""


class AffineCell(Cell):
    """A cell whose step is matmuls with weights, and elementwise functions between them.

    A subclass writes its equations as :meth:`combine`. The implementation ``"xla"`` then does not
    differentiate the loop: it runs the equations with an ``affine`` of its own and finds the
    gradients of the weights by one large matmul (``gru_jax/_unroll/README.md``).

    The rule is checked when a step is traced. A cell that breaks it runs as a plain
    ``lax.scan``, which JAX differentiates; :func:`gru_jax.explain` says why.
    """

    def combine(self, state: State, projected: ProjectedInputs, affine: AffineFn) -> State:
        """The next state, in which every matmul with a parameter is a call of ``affine``.

        All else must be elementwise in the state, ``projected`` and the preactivations that
        ``affine`` returns, and must use no parameter: parameters are weights and addends of
        ``affine``. Addends may depend on ``projected`` and parameters, not on the state. A traced
        value that is not among the cell's fields must not be read.
        """
        raise NotImplementedError

    def recur(self, state: State, projected: ProjectedInputs) -> State:
        return self.combine(state, projected, affine)
