"""Optimizers and schedules by name; any other Optax transformation works as well."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from gru_jax import _checks
from gru_jax.training import optax_names
from gru_jax.training.accumulation import weighted_accumulation

SCHEDULES = ("constant", "cosine", "exponential", "linear")
"""Schedules of :func:`make_schedule` that are a warmup and a decay to ``final_scale``."""

# The number in place of a constant schedule is for optimizers that take no schedule, such as rprop.
# These keep the state that earlier checkpoints have.
_ALWAYS_SCHEDULED = ("adam", "adamw", "sgd", "rmsprop")


def matrices_only(params: Any) -> Any:
    """A mask of weight decay: True for leaves of two axes or more.

    It spares biases, learned initial states, and the scales and shifts of norms.
    """
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def make_optimizer(
    learning_rate: float = 1e-3,
    *,
    name: str = "adam",
    options: Mapping[str, Any] | None = None,
    schedule: str = "constant",
    schedule_options: Mapping[str, Any] | None = None,
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
        name: a function of Optax that takes a learning rate and returns an optimizer, such as
            ``"adam"`` for :func:`optax.adam` or ``"lion"``.
        options: its further keyword arguments, such as ``{"b1": 0.95}``. Others have Optax's
            defaults.
        schedule: see :func:`make_schedule`, also for ``warmup_steps`` and ``final_scale``.
        schedule_options: see :func:`make_schedule`; steps in them are counted in updates, one for
            each ``accumulate_steps`` train steps.
        steps: length of the run in train steps; required by every schedule but ``"constant"``.
        warmup_steps: length of the warmup in train steps.
        final_scale: learning rate at the end, as a fraction of ``learning_rate``.
        max_grad_norm: gradients whose global norm exceeds it are scaled down to it (Pascanu et al.
            2013, arXiv 1211.5063, algorithm 1). None does not clip.
        weight_decay: decay of the parameters. An optimizer with an argument of this name gets it
            in place of its own default; with ``"adamw"`` it is decoupled from the gradient
            (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2). With the others
            ``weight_decay * params`` is added to the clipped gradient.
        weight_decay_mask: which parameters decay, as Optax's ``mask``: a prefix of their tree with
            booleans, or a function from the parameters to one. None decays all.
        accumulate_steps: train steps per update. The update uses the mean of their gradients
            (:class:`optax.MultiSteps`); the steps in between leave the parameters unchanged.
        accumulate_by_weight: whether that mean is weighted by the ``batch_weight`` of
            :func:`make_train_step`. The update is then that of one large batch even if the batches
            have different numbers of valid elements.

    Raises:
        TypeError: an argument of the wrong type, or an option that the optimizer does not have.
        ValueError: an unknown name, a number out of range, a schedule without ``steps``, or an
            optimizer that needs more than gradients, such as :func:`optax.lbfgs`.
    """
    accumulate_steps = _checks.positive_int("accumulate_steps", accumulate_steps)
    _finite_number("weight_decay", weight_decay)
    scheduled_rate = make_schedule(
        learning_rate,
        schedule=schedule,
        # The schedule counts updates, one per `accumulate_steps` train steps.
        steps=None
        if steps is None
        else -(-_checks.positive_int("steps", steps) // accumulate_steps),
        warmup_steps=-(-_non_negative_int("warmup_steps", warmup_steps) // accumulate_steps),
        final_scale=final_scale,
        options=schedule_options,
    )
    if name not in _ALWAYS_SCHEDULED and schedule == "constant" and not warmup_steps:
        scheduled_rate = learning_rate
    chain = []
    if max_grad_norm is not None:
        _finite_number("max_grad_norm", max_grad_norm, above_zero=True)
        chain.append(optax.clip_by_global_norm(max_grad_norm))
    own_decay = {}
    if optax_names.has_parameter(name, "weight_decay"):
        own_decay = {"weight_decay": weight_decay, **_own_mask(name, weight_decay_mask)}
        if weight_decay and weight_decay_mask is not None and len(own_decay) == 1:
            raise ValueError(
                f"optax.{name} decays all parameters, but weight_decay_mask is not None"
            )
    elif weight_decay:
        chain.append(optax.add_decayed_weights(weight_decay, weight_decay_mask))
    chain.append(optax_names.make_optimizer(name, scheduled_rate, options or {}, own_decay))
    optimizer = optax.chain(*chain)
    if accumulate_steps == 1:
        return optimizer
    if accumulate_by_weight:
        return weighted_accumulation(optimizer, accumulate_steps)
    return optax.MultiSteps(optimizer, accumulate_steps).gradient_transformation()


def make_schedule(
    learning_rate: float,
    *,
    schedule: str = "constant",
    steps: int | None = None,
    warmup_steps: int = 0,
    final_scale: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> optax.Schedule:
    """Returns a schedule: a function from the number of updates made to the learning rate.

    The rate rises linearly from 0 to ``learning_rate`` over ``warmup_steps``. Then it falls to
    ``final_scale * learning_rate`` at ``steps`` and stays there: linearly, along half a cosine
    (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5), or by a constant factor per step
    (``"exponential"``). With ``"constant"`` it stays at ``learning_rate``.

    Other names are those of functions of Optax, such as ``"piecewise_constant_schedule"``, and
    ``options`` are their keyword arguments. ``learning_rate`` is their ``peak_value``, otherwise
    their ``value`` or ``init_value``. ``decay_steps`` and ``transition_steps`` are by default what
    the run's length and the warmup leave; ``final_scale`` gives ``end_value`` or ``alpha``.

    Raises:
        TypeError: an argument of the wrong type, or an option that the schedule does not have.
        ValueError: an unknown schedule, a number out of range, a schedule without ``steps``, or an
            argument or option that would have no effect.
    """
    optax_names.check_name("schedule", schedule, (*SCHEDULES, *optax_names.schedule_names()))
    _finite_number("learning_rate", learning_rate, above_zero=True)
    warmup_steps = _non_negative_int("warmup_steps", warmup_steps)
    if _finite_number("final_scale", final_scale) > 1:
        raise ValueError(f"final_scale must lie in [0, 1], got {final_scale!r}")
    if schedule not in SCHEDULES:
        return optax_names.make_schedule(
            schedule, options or {}, learning_rate, steps, warmup_steps, final_scale
        )
    if options:
        raise TypeError(f'schedule "{schedule}" takes no options, got {dict(options)}')
    if schedule == "constant":
        if final_scale:
            raise ValueError(
                f'final_scale has no effect on schedule "constant", got {final_scale!r}'
            )
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


def _own_mask(name: str, mask: Any) -> dict[str, Any]:
    """Returns the argument with which an optimizer of Optax takes a mask of weight decay."""
    return {key: mask for key in optax_names.MASKS if optax_names.has_parameter(name, key)}


def _non_negative_int(name: str, value: int) -> int:
    return 0 if value == 0 else _checks.positive_int(name, value)


def _finite_number(name: str, value: float, *, above_zero: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < float("inf") or (above_zero and value == 0):
        expected = "above 0" if above_zero else "0 or above"
        raise ValueError(f"{name} must be finite and {expected}, got {value!r}")
    return value
