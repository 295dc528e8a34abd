"""The progress of a training, in one line: step, loss, metric, and the time that is left."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.status import Say, duration
from experiments.tables import number
from gru_jax import training


@dataclass
class TrainingLine:
    """A metrics writer that says each row, and passes it on.

    The time left is that of the steps since the first row, or since the first validation: before
    them programs are compiled.

    Attributes:
        writer: the writer to pass rows on to.
        say: says a line.
        steps: steps of the whole training.
        monitor: the validation metric to show.
    """

    writer: training.MetricsWriter
    say: Say
    steps: int
    monitor: str
    _start: tuple[int, float] | None = None
    _shown: dict[str, str] = field(default_factory=dict)

    def resume_from(self, step: int) -> None:
        self.writer.resume_from(step)

    def write(self, row: Mapping[str, Any]) -> None:
        self.writer.write(row)
        step, now = row["step"], time.monotonic()
        if row["split"] == "train":
            self._shown["loss"] = number(row.get("loss"))
        else:
            name = f"validation {self.monitor.replace('_', ' ')}"
            if name not in self._shown:
                self._start = None
            self._shown[name] = number(row[self.monitor])
        if self._start is None:
            self._start = step, now
        parts = [f"Step {step:,} of {self.steps:,}", *(f"{k} {v}" for k, v in self._shown.items())]
        done = step - self._start[0]
        if done:
            left = (self.steps - step) * (now - self._start[1]) / done
            parts.append(f"{duration(left)} left")
        self.say(", ".join(parts))
