"""Common optimizers and schedules by name; any other Optax transformation works as well."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax

from gru_jax import _checks
from gru_jax.training.accumulation import weighted_accumulation

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
ScheduleName = Literal["constant", "cosine", "exponential", "linear"]


def matrices_only(params: Any) -> Any:
    """A mask of weight decay: True for leaves of two axes or more.

    It spares biases, learned initial states, and the scales and shifts of norms.
    """
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def make_optimizer(
    learning_rate: float = 1e-3,
    *,
    name: OptimizerName = "adam",
    schedule: ScheduleName = "constant",
    steps: int | None = None,
    warmup_steps: int = 0,
    final_scale: float = 0.0,
    max_grad_norm: float | None = None,
    weight_decay: float = 0.0,
    weight_decay_mask: Any | Callable[[Any], Any] | None = matrices_only,
    accumulate_steps: int = 1,
    accumulate_by_weight: bool = False,
) -> optax.GradientTransformation:
    """Returns an optimizer that accumulates, clips, decays and scales, in that order.

    Args:
        learning_rate: peak of the schedule.
        name: ``"adam"``, ``"adamw"``, ``"sgd"`` or ``"rmsprop"``, with Optax's defaults.
        schedule: see :func:`make_schedule`, also for ``warmup_steps`` and ``final_scale``.
        steps: length of the run in train steps; required by every schedule but ``"constant"``.
        warmup_steps: length of the warmup in train steps.
        final_scale: learning rate at the end, as a fraction of ``learning_rate``.
        max_grad_norm: gradients whose global norm exceeds it are scaled down to it (Pascanu et al.
            2013, arXiv 1211.5063, algorithm 1). None does not clip.
        weight_decay: decay of the parameters. With ``"adamw"`` it is decoupled from the gradient
            (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2); with the others
            ``weight_decay * params`` is added to the clipped gradient.
        weight_decay_mask: which parameters decay, as Optax's ``mask``: a prefix of their tree with
            booleans, or a function from the parameters to one. None decays all.
        accumulate_steps: train steps per update. The update uses the mean of their gradients
            (:class:`optax.MultiSteps`); the steps in between leave the parameters unchanged.
        accumulate_by_weight: whether that mean is weighted by the ``batch_weight`` of
            :func:`make_train_step`. The update is then that of one large batch even if the batches
            have different numbers of valid elements.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown name, a number out of range, or a schedule without ``steps``.
    """
    _checks.one_of("name", name, ("adam", "adamw", "sgd", "rmsprop"))
    accumulate_steps = _checks.positive_int("accumulate_steps", accumulate_steps)
    _finite_number("weight_decay", weight_decay)
    scheduled_rate = make_schedule(
        learning_rate,
        schedule=schedule,
        # The schedule counts updates, one per `accumulate_steps` train steps.
        steps=None
        if steps is None
        else -(-_checks.positive_int("steps", steps) // accumulate_steps),
        warmup_steps=_non_negative_int("warmup_steps", warmup_steps) // accumulate_steps,
        final_scale=final_scale,
    )
    chain = []
    if max_grad_norm is not None:
        _finite_number("max_grad_norm", max_grad_norm, above_zero=True)
        chain.append(optax.clip_by_global_norm(max_grad_norm))
    if name == "adamw":
        chain.append(optax.adamw(scheduled_rate, weight_decay=weight_decay, mask=weight_decay_mask))
    else:
        if weight_decay:
            chain.append(optax.add_decayed_weights(weight_decay, weight_decay_mask))
        optimizers = {"adam": optax.adam, "sgd": optax.sgd, "rmsprop": optax.rmsprop}
        chain.append(optimizers[name](scheduled_rate))
    optimizer = optax.chain(*chain)
    if accumulate_steps == 1:
        return optimizer
    if accumulate_by_weight:
        return weighted_accumulation(optimizer, accumulate_steps)
    return optax.MultiSteps(optimizer, accumulate_steps).gradient_transformation()


def make_schedule(
    learning_rate: float,
    *,
    schedule: ScheduleName = "constant",
    steps: int | None = None,
    warmup_steps: int = 0,
    final_scale: float = 0.0,
) -> optax.Schedule:
    """Returns a schedule: a function from the number of updates made to the learning rate.

    The rate rises linearly from 0 to ``learning_rate`` over ``warmup_steps``. Then it falls to
    ``final_scale * learning_rate`` at ``steps`` and stays there: linearly, along half a cosine
    (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5), or by a constant factor per step
    (``"exponential"``). With ``"constant"`` it stays at ``learning_rate``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown schedule, a number out of range, or a schedule without ``steps``.
    """
    _checks.one_of("schedule", schedule, ("constant", "cosine", "exponential", "linear"))
    _finite_number("learning_rate", learning_rate, above_zero=True)
    warmup_steps = _non_negative_int("warmup_steps", warmup_steps)
    if _finite_number("final_scale", final_scale) > 1:
        raise ValueError(f"final_scale must lie in [0, 1], got {final_scale!r}")
    if schedule == "constant":
        decay = optax.constant_schedule(learning_rate)
    else:
        if steps is None:
            raise ValueError(f'schedule "{schedule}" needs steps, the length of the run')
        decay_steps = _checks.positive_int("steps", steps) - warmup_steps
        if decay_steps < 1:
            raise ValueError(f"warmup_steps={warmup_steps} must be less than steps={steps}")
        if schedule == "cosine":
            decay = optax.cosine_decay_schedule(learning_rate, decay_steps, alpha=final_scale)
        elif schedule == "linear":
            final = final_scale * learning_rate
            decay = optax.linear_schedule(learning_rate, final, decay_steps)
        else:
            if final_scale == 0:
                raise ValueError('schedule "exponential" needs a final_scale above 0')
            final = final_scale * learning_rate
            decay = optax.exponential_decay(
                learning_rate, decay_steps, final_scale, end_value=final
            )
    if warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _non_negative_int(name: str, value: int) -> int:
    return 0 if value == 0 else _checks.positive_int(name, value)


def _finite_number(name: str, value: float, *, above_zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < float("inf") or (above_zero and value == 0):
        expected = "above 0" if above_zero else "0 or above"
        raise ValueError(f"{name} must be finite and {expected}, got {value!r}")
    return value
