"""State of a run outside its TrainState: best evaluation and metrics not yet logged."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

Mode = Literal["min", "max"]


@dataclasses.dataclass
class Progress:
    """Part of each checkpoint, as JSON; without it a resumed run would not be exact.

    Attributes:
        step: number of steps taken.
        seconds: duration of the run, without the time between an interruption and a resume.
        best_step: step of the best evaluation; None before the first one.
        best_metrics: metrics of the best evaluation.
        evaluations_without_improvement: number of evaluations since the best one.
        window_steps: number of steps since the last training row.
        window_sums: metrics summed over those steps.
    """

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_metrics: dict[str, float] | None = None
    evaluations_without_improvement: int = 0
    window_steps: int = 0
    window_sums: dict[str, float] = dataclasses.field(default_factory=dict)

    def accumulate(self, metrics: Mapping[str, float]) -> None:
        """Adds one step's metrics to the sums of the next training row."""
        self.window_steps += 1
        for name, value in metrics.items():
            self.window_sums[name] = self.window_sums.get(name, 0.0) + value

    def pop_means(self) -> dict[str, float]:
        """Returns the mean metrics since the last call and resets the sums."""
        means = {name: total / self.window_steps for name, total in self.window_sums.items()}
        self.window_steps, self.window_sums = 0, {}
        return means

    def add_evaluation(self, metrics: dict[str, float], monitor: str, mode: Mode) -> bool:
        """Records an evaluation at this step and returns whether it is the best one.

        At a tie the earlier evaluation remains the best. A value that is not finite is never
        better. If a run is resumed with another ``monitor``, its first evaluation is the best.
        """
        is_best = self.best_metrics is None or _better(
            metrics[monitor], self.best_metrics.get(monitor, math.nan), mode
        )
        if is_best:
            self.best_step, self.best_metrics = self.step, metrics
            self.evaluations_without_improvement = 0
        else:
            self.evaluations_without_improvement += 1
        return is_best

    def out_of_patience(self, patience: int | None) -> bool:
        """Returns whether ``patience`` evaluations in a row brought no improvement."""
        return patience is not None and self.evaluations_without_improvement >= patience


def _better(value: float, best: float, mode: Mode) -> bool:
    if not (math.isfinite(value) and math.isfinite(best)):
        return math.isfinite(value)
    return value < best if mode == "min" else value > best
