"""Flax's scan and our implementations, on a GPU."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.bench.baselines import Problem
from experiments.bench.timing import Runs

COMMAND_BUFFERS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE",
    "xla_gpu_graph_min_graph_size": 1,
}
"""Compiler options: the steps of a loop are recorded once and launched as one graph."""


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to run a GRU.

    Attributes:
        precision: of its products, a key of :data:`experiments.bench.gpu.roofline.BYTES`.
        apply: ``(params, xs) -> ys``.
        compiler_options: for :func:`jax.jit`.
    """

    precision: str
    apply: Callable[[Any, jax.Array], jax.Array]
    compiler_options: dict[str, Any] | None = None

    @property
    def dtype(self) -> Any:
        """Of inputs and outputs."""
        return jnp.float32 if self.precision.startswith("float32") else jnp.bfloat16

    @property
    def tolerance(self) -> float:
        """How far results may be off, relative to the largest number: rounding along time."""
        return {"float32": 1e-3, "float32 (TF32)": 2e-2}.get(self.precision, 1e-1)

    @property
    def matmul_precision(self) -> str:
        """For :func:`jax.default_matmul_precision`."""
        return "highest" if self.precision == "float32" else "tensorfloat32"


def ways(problem: Problem) -> dict[str, Way]:
    """What can be timed here, by name."""
    precisions = {"float32": "float32", "TF32": "float32 (TF32)", "bfloat16": "bfloat16"}
    portable = functools.partial(_ours, implementation="xla")
    found = {}
    for short, precision in precisions.items():
        found[f"flax.nnx scan, {short}"] = Way(precision, functools.partial(_flax, problem))
        found[f"gru_jax portable, {short}"] = Way(precision, portable)
        found[f"gru_jax command buffers, {short}"] = Way(precision, portable, COMMAND_BUFFERS)
    found["gru_jax fused, bfloat16"] = Way(
        "bfloat16", functools.partial(_ours, implementation="mosaic_gpu")
    )
    return found


def exact(problem: Problem) -> dict[str, Any]:
    """Results "forward" and "gradient" in float32 at full precision."""
    arrays = _arrays(problem)
    way = Way("float32", functools.partial(_ours, implementation="xla"))
    with jax.default_matmul_precision(way.matmul_precision):
        found = {kind: jax.jit(program)(*arrays) for kind, program in _programs(way).items()}
    return jax.tree.map(np.asarray, found)


def compiled(way: Way, problem: Problem, expected: dict[str, Any]) -> tuple[Runs, dict[str, float]]:
    """The forward pass and the gradient, ready to run, held against :func:`exact` results.

    Returns:
        Functions "forward" and "gradient", which return what is still being computed; and by
        how much each is off, relative to the largest number.

    Raises:
        ValueError: where that is more than rounding.
        NotImplementedError: where this way does not serve these sizes.
    """
    params, xs, weights = _arrays(problem)
    arrays = params, xs.astype(way.dtype), weights.astype(way.dtype)
    runs, errors = {}, {}
    for kind, program in _programs(way).items():
        with jax.default_matmul_precision(way.matmul_precision):
            run = jax.jit(program, compiler_options=way.compiler_options).lower(*arrays).compile()
        errors[kind] = _distance(run(*arrays), expected[kind])
        if not errors[kind] <= way.tolerance:
            raise ValueError(f"its {kind} is off by {errors[kind]:.1e} of the largest number")
        runs[kind] = functools.partial(run, *arrays)
    return runs, errors


def _arrays(problem: Problem) -> tuple[gru_jax.GRUParams, jax.Array, jax.Array]:
    """Parameters without b_hn, which Flax's cell lacks, inputs, and weights of the loss."""
    params = dataclasses.replace(problem.params, b_hn=None)
    return jax.tree.map(jnp.asarray, (params, problem.xs, problem.weights))


def _programs(way: Way) -> dict[str, Callable[..., Any]]:
    def loss(params: Any, xs: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum((way.apply(params, xs) * weights).astype(jnp.float32))

    return {
        "forward": lambda params, xs, weights: way.apply(params, xs),
        "gradient": jax.grad(loss, (0, 1)),
    }


def _ours(params: Any, xs: jax.Array, *, implementation: str) -> jax.Array:
    return gru_jax.unroll(params, xs, implementation=implementation)[1]


def _flax(problem: Problem, params: Any, xs: jax.Array) -> jax.Array:
    """flax.nnx.RNN(flax.nnx.GRUCell), which computes in the inputs' dtype."""
    from flax import nnx

    size = problem.size
    cell: Any = nnx.GRUCell(size.input, size.hidden, dtype=xs.dtype, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = params.w_x
    cell.dense_i.bias[...] = params.b
    cell.dense_h.kernel[...] = params.w_h
    h0 = jnp.zeros((size.batch, size.hidden), xs.dtype)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jnp.asarray(nnx.RNN(cell, time_major=True)(xs, initial_carry=h0))


def _distance(tree: Any, expected: Any) -> float:
    """The largest difference between the leaves of two trees, relative to each leaf's largest."""

    def of_leaf(came: Any, wanted: Any) -> float:
        came, wanted = np.asarray(came, np.float64), np.asarray(wanted, np.float64)
        return float(np.abs(came - wanted).max() / max(np.abs(wanted).max(), 1e-30))

    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    # Not the built-in maximum, which loses a NaN that is not first.
    return float(np.max([of_leaf(*pair) for pair in pairs]))
