"""Calls with which kernels are checked on a device, and what they should return."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from gru_jax.typing import ImplementationName


@dataclasses.dataclass(frozen=True)
class Case:
    """The arguments of a call, and the weights of a loss on its results."""

    arguments: tuple[gru_jax.GRUParams, jax.Array, jax.Array]
    controls: dict[str, jax.Array]
    reverse: bool
    weights: tuple[jax.Array, jax.Array]

    @classmethod
    def sample(
        cls, time: int, batch: int, hidden: int, dtype: str = "bfloat16", *, plain: bool = False
    ) -> "Case":
        """Samples a call with all features, or none if ``plain``.

        All floating-point elements are exact in ``dtype``, which is that of the inputs.
        """
        keys = iter(jax.random.split(jax.random.key(time * 1000 + batch), 12))
        inputs = 64
        params = gru_jax.init(next(keys), inputs, hidden, bias_init="torch", learned_h0=not plain)

        def normal(*shape: int) -> jax.Array:
            return jax.random.normal(next(keys), shape).astype(dtype)

        params = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), params)
        controls = {
            "lengths": jax.random.randint(next(keys), (batch,), 0, time + 1),
            "mask": jax.random.bernoulli(next(keys), 0.8, (time, batch)),
            "starts": jax.random.bernoulli(next(keys), 0.1, (time, batch)),
        }
        h0 = jnp.tanh(normal(batch, hidden).astype(jnp.float32))
        return cls(
            (params, normal(time, batch, inputs), h0),
            {} if plain else controls,
            reverse=bool(batch % 2) and not plain,
            weights=(normal(batch, hidden).astype(jnp.float32), normal(time, batch, hidden)),
        )

    def outcome(self, implementation: ImplementationName) -> Any:
        """``((h_last, ys), gradients of the loss)``, compiled once."""
        return _outcome(self.arguments, self.controls, self.weights, self.reverse, implementation)

    def float64_reference(self) -> Any:
        """The same in float64 on the CPU."""
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):

            def to_float64(leaf: jax.Array) -> jax.Array:
                is_floating = jnp.issubdtype(leaf.dtype, jnp.floating)
                return jnp.asarray(np.asarray(leaf, np.float64 if is_floating else leaf.dtype))

            arguments, controls, weights = jax.tree.map(
                to_float64, (self.arguments, self.controls, self.weights)
            )
            found = _outcome(arguments, controls, weights, self.reverse, "xla")
            return jax.tree.map(np.asarray, found)


def compute_outcome(
    arguments: Any, controls: Any, weights: Any, reverse: bool, implementation: ImplementationName
) -> Any:
    """``((h_last, ys), gradients of the loss)`` of a call, see :class:`Case`."""

    def loss(*arguments: Any) -> Any:
        last, ys = gru_jax.unroll(
            *arguments, **controls, reverse=reverse, implementation=implementation
        )
        dtype = last.dtype
        total = jnp.sum(last * weights[0]) + jnp.sum(ys.astype(dtype) * weights[1].astype(dtype))
        return total, (last, ys)

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    return outputs, gradients


# Without this option, reductions that XLA does around the kernels could differ between runs.
_outcome = jax.jit(
    compute_outcome, static_argnums=(3, 4), compiler_options={"xla_gpu_deterministic_ops": True}
)


def assert_close(actual: Any, expected: Any, tolerances: tuple[float, float]) -> dict[str, float]:
    """The errors of values and gradients. Raises ValueError if one exceeds its tolerance."""
    errors = {}
    for index, (name, limit) in enumerate(zip(("values", "gradients"), tolerances, strict=True)):
        pairs = zip(jax.tree.leaves(actual[index]), jax.tree.leaves(expected[index]), strict=True)
        found = [distance(*pair) for pair in pairs]
        errors[name] = float(np.max(found))
        if not errors[name] <= limit:
            raise ValueError(f"{name} are off by {errors[name]:.1e}; by array: {found}")
    return errors


def distance(actual: Any, expected: Any) -> float:
    """The largest difference of two arrays, relative to the largest element, or to 1."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if not actual.size:
        return 0.0
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1.0))


def fill_with_nan() -> None:
    """Fills device memory with NaN and frees it, so that the next results are written there."""
    pieces = [jnp.full(size, jnp.nan) for size in (2**24, 2**20, 2**20, 2**16, 2**12)]
    jax.block_until_ready(pieces)
