"""Optimizers and schedules of Optax by name, with options checked against their signatures."""

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

MASKS = ("mask", "weight_decay_mask")
"""Names that Optax's optimizers give the argument of :func:`make_optimizer`'s mask."""

_PEAKS = ("peak_value", "value", "init_value")


def optimizer_names() -> list[str]:
    """Returns the functions of `optax` that return an optimizer with a learning rate."""
    return [
        name
        for name, parameters in _functions().items()
        if "learning_rate" in parameters and not name.startswith("scale_by_")
    ]


def schedule_names() -> list[str]:
    """Returns the functions of `optax` that return a schedule of one learning rate."""
    return [
        name
        for name, parameters in _functions().items()
        if name.endswith(("_schedule", "_decay")) and not parameters.keys().isdisjoint(_PEAKS)
    ]


def check_name(argument: str, name: str, known: Collection[str]) -> None:
    """ValueError with the nearest name unless ``name`` is one of those that are known."""
    if name not in known:
        raise ValueError(
            f"{argument} must be one of {', '.join(known)}; got {name!r}{_nearest(name, known)}"
        )


def check_options(
    argument: str, name: str, options: Mapping[str, Any], *, elsewhere: Mapping[str, str]
) -> None:
    """Checks options against the signature of a function of `optax`.

    Args:
        argument: the argument that holds the options, for messages.
        name: the function.
        options: its keyword arguments.
        elsewhere: the arguments that give parameters which are no options, by parameter.

    Raises:
        TypeError: the function has no such option, or its default is of another type.
        ValueError: the option is set by another argument.
    """
    parameters = _functions()[name]
    known = [option for option in parameters if option not in elsewhere]
    for option, value in options.items():
        if option in parameters and option in elsewhere:
            raise ValueError(f"{argument} has {option!r}, which is set by {elsewhere[option]}")
        if option not in parameters:
            takes = f"which takes {', '.join(known)}" if known else "which takes no options"
            raise TypeError(
                f"{argument} has {option!r}, which is no option of optax.{name}, "
                f"{takes}{_nearest(option, known)}"
            )
        default = parameters[option].default
        if isinstance(default, bool) and not isinstance(value, bool):
            raise TypeError(f"{argument}: {option} must be True or False, got {value!r}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if type(default) in (int, float) and value is not None and not is_number:
            raise TypeError(f"{argument}: {option} must be a number, got {value!r}")


def make_schedule(
    name: str,
    options: Mapping[str, Any],
    learning_rate: float,
    steps: int | None,
    warmup_steps: int,
    final_scale: float,
) -> optax.Schedule:
    """Returns a schedule of Optax; see :func:`gru_jax.training.make_schedule`.

    Raises:
        TypeError, ValueError: as there.
    """
    parameters = _functions()[name]
    peak = next(peak for peak in _PEAKS if peak in parameters)
    check_options(
        "schedule_options",
        name,
        options,
        elsewhere={peak: "learning_rate", "warmup_steps": "warmup_steps"},
    )
    given = {**options, peak: learning_rate}
    has_warmup = "warmup_steps" in parameters
    if has_warmup:
        given["warmup_steps"] = warmup_steps
    for length in {"decay_steps", "transition_steps"} & (parameters.keys() - options.keys()):
        if steps is None:
            raise ValueError(f'schedule "{name}" needs steps, the length of the run')
        # Of these two only `decay_steps` counts the steps of a warmup.
        given[length] = steps if has_warmup and length == "decay_steps" else steps - warmup_steps
    end = next((end for end in ("end_value", "alpha") if end in parameters), None)
    if final_scale and (end is None or end in options):
        reason = f"takes no {end or 'end_value'}" if end is None else f"is given {end}"
        raise ValueError(f"final_scale is {final_scale}, but optax.{name} {reason}")
    if end is not None and end not in options:
        is_needed = parameters[end].default is inspect.Parameter.empty
        if final_scale or is_needed:
            given[end] = final_scale * (1 if end == "alpha" else learning_rate)
    _check_complete("schedule_options", name, given)
    try:
        schedule = getattr(optax, name)(**given)
        with _optax_promotion():
            is_scalar = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32)).shape == ()
    except Exception as error:
        raise ValueError(_unusable(name, options, error)) from error
    if not is_scalar:
        raise ValueError(f"optax.{name} with {dict(options)} does not return numbers")
    if has_warmup or warmup_steps == 0:
        return schedule
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def make_optimizer(
    name: str,
    learning_rate: float | optax.Schedule,
    options: Mapping[str, Any],
    decay: Mapping[str, Any],
) -> optax.GradientTransformation:
    """Returns an optimizer of Optax that updates parameters from their gradients alone.

    Args:
        name: one of :func:`optimizer_names`.
        learning_rate: a number or a schedule.
        options: its further keyword arguments.
        decay: keyword arguments of its weight decay, if it has one.

    Raises:
        TypeError: an option that it does not have.
        ValueError: an option is missing, or it needs more than gradients, such as losses.
    """
    check_name("name", name, optimizer_names())
    make: Callable[..., optax.GradientTransformation] = getattr(optax, name)
    fields = {mask: "weight_decay_mask" for mask in MASKS}
    fields |= {field: field for field in ("learning_rate", "weight_decay")}
    check_options("options", name, options, elsewhere=fields)
    given = {**options, **decay}
    _check_complete("options", name, {**given, "learning_rate": learning_rate})

    def updates(params: Any) -> Any:
        # A mask may be a tree like the user's parameters.
        unmasked = {key: value for key, value in given.items() if key not in MASKS}
        optimizer = make(learning_rate, **unmasked)
        return optimizer.update(params, optimizer.init(params), params)[0]

    params = {
        "w": jax.ShapeDtypeStruct((3, 2), jnp.float32),
        "b": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    try:
        with _optax_promotion():
            updated = jax.eval_shape(updates, params)
        optimizer = make(learning_rate, **given)
    except Exception as error:
        raise ValueError(_unusable(name, options, error)) from error
    if jax.tree.map(jnp.shape, updated) != jax.tree.map(jnp.shape, params):
        raise ValueError(f"optax.{name} cannot be used: its updates have other shapes than params")
    return optimizer


def has_parameter(name: str, parameter: str) -> bool:
    """Whether an optimizer of Optax takes an argument."""
    return parameter in _functions().get(name, {})


@functools.cache
def _functions() -> dict[str, Mapping[str, inspect.Parameter]]:
    """Returns the parameters of all public functions of `optax`, by name."""
    return {
        name: inspect.signature(value).parameters
        for name, value in inspect.getmembers(optax, inspect.isfunction)
        if not name.startswith("_")
    }


@contextlib.contextmanager
def _optax_promotion() -> Iterator[None]:
    """Allows the implicit promotion that Optax relies on, which the caller may have turned off."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _check_complete(argument: str, name: str, given: Mapping[str, Any]) -> None:
    missing = [
        parameter
        for parameter, value in _functions()[name].items()
        if value.default is inspect.Parameter.empty and parameter not in given
    ]
    if missing:
        raise ValueError(f"{argument} lacks {', '.join(missing)}, which optax.{name} needs")


def _unusable(name: str, options: Mapping[str, Any], error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    with_options = f" with {dict(options)}" if options else ""
    return f"optax.{name}{with_options} cannot be used here: {reason}"


def _nearest(word: str, known: Collection[str]) -> str:
    closest = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {closest[0]}?" if closest else ""
