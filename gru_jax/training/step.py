"""The jitted train step: loss, gradients, update."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from gru_jax.training.state import TrainState
from gru_jax.typing import Array

Metrics: TypeAlias = Mapping[str, Array]
LossFunction: TypeAlias = Callable[[Any, Any, Array], tuple[Array, Metrics]]
TrainStep: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFunction, optimizer: optax.GradientTransformation, *, seed: int = 0
) -> TrainStep:
    """Returns ``train_step(state, batch) -> (state, metrics)``, jitted.

    The state handed in is donated: its memory goes to the state that comes back, and it cannot be
    used again.

    Args:
        loss_fn: ``(params, batch, key) -> (loss, metrics)``: a scalar to minimise, and a dict of
            further scalars to report. ``key`` is a function of ``seed`` and the step alone, so
            that a resumed run draws what an unbroken one does.
        optimizer: as :func:`gru_jax.training.make_optimizer` makes, or any from Optax.
        seed: of the random keys.

    Returns:
        The step. Its metrics are those of ``loss_fn``, ``loss``, and ``grad_norm``, the global
        norm of the gradients before any clipping, in float32 at least.

    Raises:
        ValueError: at the first call, metrics that are not scalars.
    """

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value_and_gradients = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), gradients = value_and_gradients(state.params, batch, key)
        _check_scalars(metrics)
        # Optax relies on implicit promotion, which the caller may have turned off.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            grad_norm = optax.tree.norm(jax.tree.map(_at_least_float32, gradients))
        new_state = TrainState(state.step + 1, params, opt_state)
        return new_state, {**metrics, "loss": loss, "grad_norm": grad_norm}

    return jax.jit(train_step, donate_argnums=0)


def _at_least_float32(gradient: Array) -> Array:
    return gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))


def _check_scalars(metrics: Metrics) -> None:
    for name, value in metrics.items():
        if jnp.shape(value) != ():
            raise ValueError(
                f"loss_fn must return scalar metrics, got {name!r} of shape {jnp.shape(value)}"
            )
