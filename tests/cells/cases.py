"""The cells under test, each beside the NumPy step it must equal; arrays for either side."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from tests import reference
from tests.shapes import ProblemSize

# How many units in the last place a result may be off. Products of bfloat16 are accumulated in
# float32, so that only their operands and the outputs are rounded coarsely.
ROUNDINGS = {"float64": 64, "float32": 64, "bfloat16": 4}


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """One cell: its class, its static fields, and its definition in NumPy."""

    name: str
    kind: type[gru_jax.Cell]
    init: Callable[..., gru_jax.Cell]
    step: reference.Step
    gates: int
    states: int = 1
    static: Mapping[str, str] = field(default_factory=dict)
    has_b_hn: bool = False

    def __repr__(self) -> str:
        return self.name

    def sample_weights(
        self, shape: ProblemSize, seed: int = 0, *, bias: bool = True, learned_h0: bool = False
    ) -> dict[str, np.ndarray]:
        """Random weights by field name: no two gates alike, no bias zero."""
        random = np.random.default_rng(seed)
        hidden = shape.hidden
        shapes = {"w_x": (shape.input, self.gates * hidden), "w_h": (hidden, self.gates * hidden)}
        if bias:
            shapes["b"] = (self.gates * hidden,)
        if bias and self.has_b_hn:
            shapes["b_hn"] = (hidden,)
        if learned_h0:
            shapes |= {name: (hidden,) for name in ("h0", "c0")[: self.states]}
        return {name: random.uniform(-1, 1, size) for name, size in shapes.items()}

    def cell(self, weights: Mapping[str, Any], dtype: str) -> gru_jax.Cell:
        """The library's cell with these weights."""
        arrays = {name: jnp.asarray(value, dtype) for name, value in weights.items()}
        return self.kind(**arrays, **self.static)

    def state(self, parts: reference.State, dtype: str) -> Any:
        """The library's state from the reference's."""
        arrays = [jnp.asarray(part, dtype) for part in parts]
        return gru_jax.LSTMState(*arrays) if self.kind is gru_jax.LSTMParams else arrays[0]


GRU_AFTER = Case(
    name="gru_after",
    kind=gru_jax.GRUParams,
    init=gru_jax.init,
    step=reference.gru_reset_after,
    gates=3,
    static={"reset": "after"},
    has_b_hn=True,
)
GRU_BEFORE = Case(
    name="gru_before",
    kind=gru_jax.GRUParams,
    init=gru_jax.init,
    step=reference.gru_reset_before,
    gates=3,
    static={"reset": "before"},
)
LSTM = Case(
    name="lstm",
    kind=gru_jax.LSTMParams,
    init=gru_jax.init_lstm,
    step=reference.lstm,
    gates=4,
    states=2,
)
RNN = Case(name="rnn", kind=gru_jax.RNNParams, init=gru_jax.init_rnn, step=reference.elman, gates=1)
CASES = (GRU_AFTER, GRU_BEFORE, LSTM, RNN)
KINDS = (GRU_AFTER, GRU_BEFORE, LSTM)
"""All but the plain RNN, which has nothing that one of these has not."""


class Outcome(NamedTuple):
    """What a call gives, and the gradients of a loss over it, by the names of the reference."""

    state: reference.State
    ys: Any
    gradients: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What unroll is called with but for the controls, and a loss over what it gives, in float64.

    In the loss every number of the outputs and of the final state has a weight of its own.
    """

    case: Case
    weights: dict[str, np.ndarray]
    xs: np.ndarray
    state: reference.State
    cotangent_ys: np.ndarray
    cotangent_state: reference.State

    @classmethod
    def sample(cls, case: Case, shape: ProblemSize, seed: int = 0, **options: bool) -> "Problem":
        random = np.random.default_rng((seed, 1))
        states = (*shape.batch, shape.hidden)
        return cls(
            case,
            weights=case.sample_weights(shape, seed, **options),
            xs=random.normal(size=(shape.time, *shape.batch, shape.input)),
            state=tuple(random.uniform(-1, 1, states) for _ in range(case.states)),
            cotangent_ys=random.normal(size=(shape.time, *states)),
            cotangent_state=tuple(random.normal(size=states) for _ in range(case.states)),
        )

    def rounded(self, dtype: str) -> "Problem":
        """The problem in numbers which arrays of this dtype can hold."""

        def to_dtype_and_back(value: np.ndarray) -> np.ndarray:
            return value.astype(jnp.dtype(dtype)).astype(np.float64)

        values = (self.weights, self.xs, self.state, self.cotangent_ys, self.cotangent_state)
        return Problem(self.case, *jax.tree.map(to_dtype_and_back, values))

    def inputs(self, dtype: str) -> tuple[gru_jax.Cell, jax.Array, Any]:
        """The first three arguments of unroll."""
        return (
            self.case.cell(self.weights, dtype),
            jnp.asarray(self.xs, dtype),
            self.case.state(self.state, dtype),
        )

    def run(
        self,
        dtype: str,
        unroll: Callable[..., tuple[Any, jax.Array]] = gru_jax.unroll,
        **controls: Any,
    ) -> Outcome:
        """The library's outcome; compiled once per shape."""
        arrays = {name: value for name, value in controls.items() if hasattr(value, "shape")}
        options = tuple(item for item in controls.items() if item[0] not in arrays)
        cotangents = (
            self.case.state(self.cotangent_state, dtype),
            jnp.asarray(self.cotangent_ys, dtype),
        )
        (state, ys), gradients = _evaluate(unroll, options, self.inputs(dtype), cotangents, arrays)
        return Outcome(tuple(jax.tree.leaves(state)), ys, named(*gradients))

    def expected(self, **controls: Any) -> Outcome:
        """The reference's outcome."""
        parts = {f"state.{i}": part for i, part in enumerate(self.state)}

        def unroll(arguments: dict[str, np.ndarray]) -> tuple[reference.State, np.ndarray]:
            weights = {name: arguments[name] for name in self.weights}
            state = tuple(arguments[name] for name in parts)
            return reference.unroll(self.case.step, weights, arguments["xs"], state, **controls)

        def loss(arguments: dict[str, np.ndarray]) -> complex:
            state, ys = unroll(arguments)
            total = (ys * self.cotangent_ys).sum()
            return total + (np.stack(state) * np.stack(self.cotangent_state)).sum()

        arguments = {**self.weights, "xs": self.xs, **parts}
        return Outcome(*unroll(arguments), reference.gradient(loss, arguments))


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(unroll, options, inputs, cotangents, arrays):
    def run(*inputs):
        return unroll(*inputs, **dict(options), **arrays)

    outputs, pull_back = jax.vjp(run, *inputs)
    return outputs, pull_back(cotangents)


def named(cell: gru_jax.Cell, xs: jax.Array, state: Any) -> dict[str, jax.Array]:
    """Gradients with respect to cell, inputs and state under the names of the reference."""
    weights = {item.name: getattr(cell, item.name) for item in fields(cell)}
    parts = {f"state.{i}": part for i, part in enumerate(jax.tree.leaves(state))}
    arrays = {name: value for name, value in weights.items() if isinstance(value, jax.Array)}
    return {**arrays, "xs": xs, **parts}


def assert_close(actual: Any, expected: Any, dtype: str) -> None:
    """Compares two trees to the rounding of the dtype, relative to each leaf's largest number."""
    tolerance = ROUNDINGS[dtype] * float(jnp.finfo(dtype).eps)

    def compare(path: Any, actual: Any, expected: Any) -> None:
        expected = np.asarray(expected, np.float64)
        np.testing.assert_allclose(
            np.asarray(actual, np.float64),
            expected,
            rtol=0,
            atol=tolerance * max(1.0, np.abs(expected).max(initial=0.0)),
            strict=True,
            err_msg=jax.tree_util.keystr(path),
        )

    jax.tree_util.tree_map_with_path(compare, actual, expected)


def assert_equal(actual: Any, expected: Any) -> None:
    """Compares two trees number by number."""

    def compare(path: Any, actual: Any, expected: Any) -> None:
        np.testing.assert_array_equal(
            actual, expected, strict=True, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(compare, actual, expected)
