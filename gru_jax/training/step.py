"""The jitted train step: loss, gradients, update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gru_jax import _checks
from gru_jax.training.state import TrainState
from gru_jax.typing import Array

Metrics: TypeAlias = Mapping[str, Array]
LossFunction: TypeAlias = Callable[..., tuple[Array, Any]]
BatchWeight: TypeAlias = Callable[[Any], Array | float]
TrainStep: TypeAlias = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def make_train_step(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    seed: int = 0,
    batch_weight: BatchWeight | None = None,
) -> TrainStep:
    """Returns ``train_step(state, batch) -> (state, metrics)``, jitted.

    The state passed in is donated: its buffers are reused for the new state, and it cannot be
    used again.

    Args:
        loss_fn: ``(params, batch, key) -> (loss, metrics)``: a scalar to minimise, and a dict of
            further scalars to report. ``key`` is a function of ``seed`` and the step alone, so
            that a resumed run uses the same keys as an uninterrupted one. If the state has a
            carry: ``(params, batch, key, carry) -> (loss, (metrics, carry))``.
        optimizer: the result of :func:`gru_jax.training.make_optimizer`, or any Optax optimizer.
        seed: seed of the random keys, below 2**32.
        batch_weight: ``batch -> scalar``, the number of elements over which ``loss_fn`` takes its
            mean, for an optimizer that accumulates gradients by weight. None weighs all batches
            the same.

    Returns:
        The step. Its metrics are those of ``loss_fn``, ``loss``, and ``grad_norm``, the global
        norm of the gradients before any clipping, in float32 at least.

    Raises:
        TypeError: an argument of the wrong type; at the first call, if ``loss_fn`` returns
            something else.
        ValueError: a seed out of range; at the first call, if a metric is not a scalar, or if
            ``batch_weight`` is given and the optimizer accumulates without weights
            (:class:`optax.MultiSteps`).
    """
    _check_functions(loss_fn, optimizer, batch_weight)
    _checks.seed("seed", seed)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return _update(loss_fn, optimizer, state, batch, seed, batch_weight)

    return jax.jit(train_step, donate_argnums=0)


def make_vmapped_train_step(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    *,
    seeds: Sequence[int],
    batch_weight: BatchWeight | None = None,
) -> TrainStep:
    """Vectorised :func:`make_train_step`: one program for runs that differ only in their seeds.

    For small models this is faster than one run after the other, which would leave most of a
    device idle.

    Args:
        loss_fn, optimizer, batch_weight: as for :func:`make_train_step`; the same for all runs.
        seeds: seeds of the random keys, one per run.

    Returns:
        The step. Parameters, optimizer states and batches have a leading axis of runs, as in the
        result of :meth:`TrainState.stack`, and so do the metrics.

    Raises:
        TypeError, ValueError: as :func:`make_train_step`, or no seeds.
    """
    _check_functions(loss_fn, optimizer, batch_weight)

    def update(state: TrainState, batch: Any, seed: Array) -> tuple[TrainState, Metrics]:
        return _update(loss_fn, optimizer, state, batch, seed, batch_weight)

    return vmap_update(update, seeds=seeds)


def vmap_update(
    update: Callable[[TrainState, Any, Any], tuple[TrainState, Metrics]], *, seeds: Sequence[int]
) -> TrainStep:
    """A jitted train step of several runs, from ``update(state, batch, seed)`` of one.

    For updates that :func:`make_vmapped_train_step` does not make, such as those of reinforcement
    learning.

    Args:
        update: returns the state after a step and a dict of scalars.
        seeds: one per run, below 2**32.

    Returns:
        The step, as :func:`make_vmapped_train_step` returns it.

    Raises:
        TypeError: seeds that are no sequence of integers.
        ValueError: no seeds, or one out of range.
    """
    if not isinstance(seeds, (Sequence, np.ndarray, jax.Array)) or np.ndim(seeds) != 1:
        raise TypeError(f"seeds must be a sequence of integers, one per run, got {seeds!r}")
    if not len(seeds):
        raise ValueError("seeds must hold one seed per run, got none")
    seed_array = np.array([_checks.seed("seeds", seed) for seed in seeds], np.uint32)
    step_axis: Any = None  # The step is the same for all runs.
    state_axes = TrainState(step_axis, params=0, opt_state=0, carry=0)
    vmapped = jax.vmap(update, in_axes=(state_axes, 0, 0), out_axes=(state_axes, 0))
    return jax.jit(lambda state, batches: vmapped(state, batches, seed_array), donate_argnums=0)


def _update(
    loss_fn: LossFunction,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    seed: int | Array,
    batch_weight: BatchWeight | None,
) -> tuple[TrainState, Metrics]:
    _checks.instance("state", state, TrainState, "a gru_jax.training.TrainState")
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    further = () if state.carry is None else (state.carry,)

    def loss_and_further(params: Any) -> tuple[Array, tuple[Metrics, Any]]:
        return _split_result(loss_fn(params, batch, key, *further), has_carry=bool(further))

    (loss, (metrics, carry)), gradients = jax.value_and_grad(loss_and_further, has_aux=True)(
        state.params
    )
    _check_scalars(metrics)
    extra = {}
    if batch_weight is not None:
        _check_accumulation(state.opt_state)
        extra["weight"] = jnp.asarray(batch_weight(batch), jnp.float32)
    # Optax relies on implicit promotion, which the caller may have turned off.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            gradients, state.opt_state, state.params, **extra
        )
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(jax.tree.map(_at_least_float32, gradients))
    new_state = TrainState(state.step + 1, params, opt_state, carry)
    return new_state, {**metrics, "loss": loss, "grad_norm": grad_norm}


def _at_least_float32(gradient: Array) -> Array:
    return gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))


def _check_functions(loss_fn: object, optimizer: object, batch_weight: BatchWeight | None) -> None:
    _checks.function("loss_fn", loss_fn)
    _checks.instance(
        "optimizer", optimizer, optax.GradientTransformation, "an optax.GradientTransformation"
    )
    if batch_weight is not None:
        _checks.function("batch_weight", batch_weight)


def _split_result(result: Any, *, has_carry: bool) -> tuple[Array, tuple[Metrics, Any]]:
    """The result of a loss function as ``(loss, (metrics, carry))``."""
    expected = "(loss, (metrics, carry))" if has_carry else "(loss, metrics)"

    def is_pair(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == 2

    if not is_pair(result) or (has_carry and not is_pair(result[1])):
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"loss_fn must return {expected}, got {got}")
    loss, rest = result
    metrics, carry = rest if has_carry else (rest, None)
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"loss_fn must return {expected}, metrics a dict, got {type(metrics).__name__}"
        )
    if jnp.shape(loss) != ():
        raise ValueError(f"loss_fn must return a scalar loss, got shape {jnp.shape(loss)}")
    return loss, (metrics, carry)


def _check_scalars(metrics: Metrics) -> None:
    for name in ("loss", "grad_norm"):
        if name in metrics:
            raise ValueError(
                f"loss_fn must not return a metric {name!r}: the train step's own has this name"
            )
    for name, value in metrics.items():
        if jnp.shape(value) != ():
            raise ValueError(
                f"loss_fn must return scalar metrics, got {name!r} of shape {jnp.shape(value)}"
            )


def _check_accumulation(opt_state: Any) -> None:
    def is_multi_steps(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    if any(map(is_multi_steps, jax.tree.leaves(opt_state, is_leaf=is_multi_steps))):
        raise ValueError(
            "batch_weight needs an optimizer that accumulates by weight, such as "
            "make_optimizer(..., accumulate_by_weight=True); optax.MultiSteps weighs all batches "
            "the same"
        )
