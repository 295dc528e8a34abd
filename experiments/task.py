"""What a task hands to the training command."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import jax
import numpy as np

if TYPE_CHECKING:
    from experiments.export_spec import Serving

Array = jax.Array | np.ndarray
Params = Any
Batch = Any
Figures = dict[str, float]
Split = Literal["validation", "test"]
LossFunction = Callable[..., tuple[jax.Array, Any]]


@dataclass(frozen=True)
class Task:
    """An experiment's data and model, bound to its config.

    Of two configs that differ in the seed alone, `params` and `batch_at` may differ, and nothing
    else does.

    Attributes:
        params: the initial parameters, a pytree.
        loss: (params, batch, key) -> (loss, further scalars by name), differentiable; with a
            carry (params, batch, key, carry) -> (loss, (further scalars, carry)).
        batch_at: step -> batch, a pytree of arrays; a function of (seed, step) alone.
        figures: (params, split) -> figures by name, over the whole split.
        labels: each figure's name and unit, for plots.
        loss_figure: which of the figures is the loss, measured on a whole split.
        monitor: which of the validation figures the best parameters are chosen by.
        mode: whether less or more of it is better.
        baselines: () -> the test figures of models that need no network, by name.
        draw: (params, directory) -> None; writes the task's own plots there, and texts.
        carry: what the first step gets of what each hands to the next, if there is such a thing.
        serving: what `export` writes of it as a program; None where there is no such thing.
    """

    params: Params
    loss: LossFunction
    batch_at: Callable[[int], Batch]
    figures: Callable[[Params, Split], Figures]
    labels: Mapping[str, str]
    loss_figure: str
    monitor: str
    mode: Literal["min", "max"]
    baselines: Callable[[], dict[str, Figures]]
    draw: Callable[[Params, Path], None]
    carry: Any = None
    serving: "Serving | None" = None


class Build(Protocol):
    """A task module's function that binds a config to data and model."""

    def __call__(self, config: Any, data_dir: Path, /) -> Task: ...
