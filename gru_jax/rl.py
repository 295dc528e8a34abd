"""Episodes in a rollout: which steps reset the state, and a check that a replay resets the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax import _checks
from gru_jax.typing import Array, TimeMask


def starts_from_dones(dones: TimeMask, first: TimeMask) -> Array:
    """The ``starts`` of a rollout: which steps begin an episode.

    A step begins an episode if the step before it ended one: ``starts[t]`` is ``dones[t - 1]``, and
    ``starts[0]`` is the flag after the last step of the rollout before, ``first``. Two episodes,
    the first of which began in an earlier rollout::

        step t        0   1   2   3   4   5
        episode       a   a   a   b   b   b
        dones[t]      0   0   1   0   0   0     set by step t: "this step was the last"
        starts[t]     0   0   0   1   0   0     "the state is reset before this observation"

    With auto-reset, the observation that follows ``dones[t]`` is the new episode's first, and it is
    read at step t + 1. Handing over ``dones`` itself resets one step early: the new episode then
    reads the state after the old one's last step. PPO's ratio is not 1 before the first update
    then; :func:`check_replay` tells.

    Others call the result ``resets`` (PureJaxRL's ``ScannedRNN``), ``last_done`` (its transitions),
    ``is_first`` (RLDS, Dreamer) or ``episode_starts`` (Stable-Baselines3).

    Args:
        dones: (T, *batch), whether an episode ended with this step, terminated or truncated.
            Booleans, or numbers of which those that are not zero are true.
        first: (*batch,) or a single flag for all, the ``done`` after the step before ``dones[0]``,
            which the rollout carried over. True for environments that were reset, unless the state
            that is handed to :func:`gru_jax.unroll` is the initial one anyway.

    Returns:
        (T, *batch) booleans.

    Raises:
        TypeError: flags that are neither booleans nor numbers.
        ValueError: ``dones`` has no axis of time, or ``first`` does not fit.
    """
    dones, first = _checks.flag_array("dones", dones), _checks.flag_array("first", first)
    if not dones.ndim:
        raise ValueError("dones has shape (), expected (time, *batch)")
    if first.shape not in ((), dones.shape[1:]):
        raise ValueError(
            f"first has shape {first.shape}, expected (*batch) = {dones.shape[1:]} or ()"
        )
    row = jnp.broadcast_to(first, (1, *dones.shape[1:]))
    return jnp.concatenate([row, dones])[: dones.shape[0]]


def check_replay(
    step_outputs: Any, unroll_outputs: Any, *, starts: TimeMask | None = None, atol: float = 1e-5
) -> float:
    """Checks that a replay computes what the rollout did, as it must before the first update.

    The rollout runs the policy step by step, the loss runs it over all steps at once. If flags,
    the state at the beginning, or the order of observations differ, the gradient is that of another
    policy, and no error says so. The check looks at values, so call it outside of ``jit``.

    Args:
        step_outputs: what the policy returned in the rollout, such as log-probabilities of the
            actions, a tree of arrays (T, *batch, ...).
        unroll_outputs: the same from the replay.
        starts: the flags (T, *batch) that the replay was given; the message then says whether it
            went wrong at one of them.
        atol: the largest difference, relative to values above 1. The default is for float32
            arithmetic; the default matmul precision of GPUs and TPUs is coarser.

    Returns:
        The largest difference.

    Raises:
        ValueError: trees or shapes differ, or a value differs by more than ``atol``, or is NaN; the
            message names the first step, and the environment.
    """
    rolled, replayed = jax.tree.flatten(step_outputs), jax.tree.flatten(unroll_outputs)
    shapes = [[np.shape(leaf) for leaf in leaves] for leaves, _ in (rolled, replayed)]
    if rolled[1] != replayed[1] or shapes[0] != shapes[1]:
        raise ValueError(
            "step_outputs and unroll_outputs must be trees of arrays of the same shapes, got "
            f"{rolled[1]} of {shapes[0]} and {replayed[1]} of {shapes[1]}"
        )
    largest = 0.0
    for ours, theirs in zip(rolled[0], replayed[0], strict=True):
        ours, theirs = (_in_double(np.asarray(array)) for array in (ours, theirs))
        with np.errstate(invalid="ignore"):
            # Equal infinities do not differ: the log-probabilities of actions that are masked out.
            difference = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
            error = difference / np.maximum(1, np.abs(ours))
        wrong = np.argwhere(~(error <= atol))
        if len(wrong):
            raise ValueError(_describe_mismatch(wrong[0].tolist(), error, atol, starts))
        largest = max(largest, float(error.max(initial=0)))
    return largest


def _in_double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _describe_mismatch(
    index: list[int], error: np.ndarray, atol: float, starts: TimeMask | None
) -> str:
    time, *batch = index
    where = f"step {time}" + (f", environment {batch[0]}" if batch else "")
    message = (
        f"the replay differs from the rollout by {error[tuple(index)]:.3g} at {where}, "
        f"expected at most {atol:g}."
    )
    if time == 0:
        return f"{message} Is the state at the beginning the one that the rollout began with?"
    if starts is None:
        return f"{message} Are `starts` those of gru_jax.starts_from_dones?"
    flags = np.asarray(starts).astype(bool)
    if flags[tuple(index[: flags.ndim])]:
        return (
            f"{message} The replay resets the state there and the rollout does not: `starts[t]` is "
            "`dones[t - 1]`, see gru_jax.starts_from_dones."
        )
    return f"{message} The replay does not reset the state there."
