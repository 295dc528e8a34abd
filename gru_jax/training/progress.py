"""What a run knows beside its TrainState: the best evaluation, and figures not yet reported."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

Mode = Literal["min", "max"]


@dataclasses.dataclass
class Progress:
    """Goes into each checkpoint as JSON; without it a resumed run would not be exact.

    Attributes:
        step: steps taken.
        seconds: the run has lasted, breaks not counted.
        best_step: step of the best evaluation; None while there was none.
        best_metrics: its figures.
        evaluations_without_improvement: since the best one.
        window_steps: steps since the last training row.
        window_sums: the figures summed over those steps.
    """

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_metrics: dict[str, float] | None = None
    evaluations_without_improvement: int = 0
    window_steps: int = 0
    window_sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def add_step(self, figures: Mapping[str, float]) -> None:
        """Adds one step's figures to those of the next training row."""
        self.window_steps += 1
        for name, value in figures.items():
            self.window_sums[name] = self.window_sums.get(name, 0.0) + value

    def take_window_means(self) -> dict[str, float]:
        """Returns the figures' means since the last call, and begins anew."""
        means = {name: total / self.window_steps for name, total in self.window_sums.items()}
        self.window_steps, self.window_sums = 0, {}
        return means

    def add_evaluation(self, figures: dict[str, float], monitor: str, mode: Mode) -> bool:
        """Notes an evaluation at this step and returns whether it is the best one.

        A tie leaves the earlier one the best, and a figure that is not finite is never better. A
        best one of a run that was resumed with another ``monitor`` gives way.
        """
        is_best = self.best_metrics is None or _better(
            figures[monitor], self.best_metrics.get(monitor, math.nan), mode
        )
        if is_best:
            self.best_step, self.best_metrics = self.step, figures
            self.evaluations_without_improvement = 0
        else:
            self.evaluations_without_improvement += 1
        return is_best

    def is_exhausted(self, patience: int | None) -> bool:
        """Says whether ``patience`` evaluations in a row brought no improvement."""
        return patience is not None and self.evaluations_without_improvement >= patience


def _better(value: float, best: float, mode: Mode) -> bool:
    if not (math.isfinite(value) and math.isfinite(best)):
        return math.isfinite(value)
    return value < best if mode == "min" else value > best
