"""Flax's scan and our implementations on a GPU."""

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
from gru_jax.typing import ImplementationName

COMMAND_BUFFERS = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE",
    "xla_gpu_graph_min_graph_size": 1,
}
"""Compiler options that record the kernels of a loop once and launch them as a CUDA graph."""

SEEDS = 8


@dataclasses.dataclass(frozen=True)
class Variant:
    """A program that runs a GRU, its precision and its compiler options.

    Attributes:
        precision: of the matmuls, a key of :data:`experiments.bench.gpu.roofline.BYTES`.
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
        """Tolerance relative to the largest element; rounding accumulates over time."""
        return {"float32": 1e-3, "float32 (TF32)": 2e-2}.get(self.precision, 1e-1)

    @property
    def matmul_precision(self) -> str:
        """For :func:`jax.default_matmul_precision`."""
        return "highest" if self.precision == "float32" else "tensorfloat32"


def variants(problem: Problem) -> dict[str, Variant]:
    """The variants by name."""
    precisions = {"float32": "float32", "TF32": "float32 (TF32)", "bfloat16": "bfloat16"}
    xla = functools.partial(_ours, implementation="xla")
    found = {}
    for short, precision in precisions.items():
        found[f"flax.nnx scan, {short}"] = Variant(precision, functools.partial(_flax, problem))
        found[f"gru_jax xla, {short}"] = Variant(precision, xla)
        found[f"gru_jax command buffers, {short}"] = Variant(precision, xla, COMMAND_BUFFERS)
    fused = functools.partial(_ours, implementation="mosaic_gpu")
    for short in ("TF32", "bfloat16"):
        found[f"gru_jax fused, {short}"] = Variant(precisions[short], fused)
    for name, program in {
        "with starts": functools.partial(_with_starts, fused),
        f"{SEEDS} seeds": functools.partial(_seeds, fused),
    }.items():
        found[f"gru_jax fused, TF32, {name}"] = Variant(precisions["TF32"], program)
    return found


def reference(problem: Problem) -> dict[str, Any]:
    """Results "forward" and "gradient" in float32 at full precision."""
    arrays = _arrays(problem)
    variant = Variant("float32", functools.partial(_ours, implementation="xla"))
    with jax.default_matmul_precision(variant.matmul_precision):
        found = {kind: jax.jit(program)(*arrays) for kind, program in _programs(variant).items()}
    return jax.tree.map(np.asarray, found)


def compile_and_check(
    variant: Variant, problem: Problem, expected: dict[str, Any]
) -> tuple[Runs, dict[str, float]]:
    """Compiles forward pass and gradient, and compares them with results of :func:`reference`.

    Returns:
        Functions "forward" and "gradient", which return before the device is done; and their
        errors, relative to the largest element.

    Raises:
        ValueError: if an error exceeds the tolerance.
        NotImplementedError: if the variant does not support the size.
    """
    params, xs, weights = _arrays(problem)
    arrays = params, xs.astype(variant.dtype), weights.astype(variant.dtype)
    runs, errors = {}, {}
    for kind, program in _programs(variant).items():
        with jax.default_matmul_precision(variant.matmul_precision):
            run = (
                jax.jit(program, compiler_options=variant.compiler_options).lower(*arrays).compile()
            )
        errors[kind] = _distance(run(*arrays), expected[kind])
        if not errors[kind] <= variant.tolerance:
            raise ValueError(f"its {kind} is off by {errors[kind]:.1e} of the largest element")
        runs[kind] = functools.partial(run, *arrays)
    return runs, errors


def _arrays(problem: Problem) -> tuple[gru_jax.GRUParams, jax.Array, jax.Array]:
    """Parameters without `b_hn`, which Flax's cell lacks; inputs; and weights of the loss."""
    params = dataclasses.replace(problem.params, b_hn=None)
    return jax.tree.map(jnp.asarray, (params, problem.xs, problem.weights))


def _programs(variant: Variant) -> dict[str, Callable[..., Any]]:
    def loss(params: Any, xs: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum((variant.apply(params, xs) * weights).astype(jnp.float32))

    return {
        "forward": lambda params, xs, weights: variant.apply(params, xs),
        "gradient": jax.grad(loss, (0, 1)),
    }


def _ours(
    params: Any,
    xs: jax.Array,
    *,
    implementation: ImplementationName,
    starts: jax.Array | None = None,
) -> jax.Array:
    return gru_jax.unroll(params, xs, starts=starts, implementation=implementation)[1]


def _with_starts(unroll: Any, params: Any, xs: jax.Array) -> jax.Array:
    """With flags for every step, of which none is set, so that the results are the same."""
    return unroll(params, xs, starts=jnp.zeros(xs.shape[:2], bool))


def _seeds(unroll: Any, params: Any, xs: jax.Array) -> jax.Array:
    """Under vmap over weights. XLA cannot know that all copies of a kernel's call are equal."""
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * SEEDS), params)
    return jax.vmap(unroll, (0, None))(stacked, xs)[0]


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

    def of_leaf(actual: Any, expected: Any) -> float:
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))

    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    # The built-in max would lose a NaN that is not first.
    return float(np.max([of_leaf(*pair) for pair in pairs]))
