"""State of a training loop under way, with one method for each thing that the loop does."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm

from gru_jax.training import host_tree, processes
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.errors import NonFiniteLossError
from gru_jax.training.metrics import MetricsWriter
from gru_jax.training.progress import Mode, Progress
from gru_jax.training.state import TrainState
from gru_jax.training.step import Metrics, TrainStep

logger = logging.getLogger("gru_jax.training")


class LoopState:
    """The state of :func:`gru_jax.training.fit`.

    Attributes:
        state: the latest train state; the device may still be computing it.
        progress: the remaining content of a checkpoint.
        saved_step: step of the latest save; None before the first one.
        step_rate: steps per second.
        bar: the progress bar.
    """

    bar: tqdm

    def __init__(
        self,
        state: TrainState,
        progress: Progress,
        store: CheckpointStore | None,
        writer: MetricsWriter | None,
    ):
        self.state = state
        self.progress = progress
        self.saved_step: int | None = None
        self.step_rate = StepRate()
        self._store = store
        self._writer = writer
        self._start_time = time.perf_counter()
        # Metrics of steps that were dispatched and not waited for: the loop runs ahead of the
        # device.
        self._pending: list[Metrics] = []
        self._best: dict[str, host_tree.HostArray] | None = None

    def resume(self, state: TrainState, progress: Progress) -> None:
        """Resumes from a checkpoint."""
        self.state = state
        self.progress = progress
        self.saved_step = progress.step
        self._start_time -= progress.seconds
        if progress.best_step is None or self._store is None:
            return
        best = state
        if progress.best_step != progress.step:
            restored = self._store.restore(progress.best_step, state)
            if restored is None:
                # The checkpoint of an earlier best step is deleted once a later step is better. If
                # that later checkpoint is corrupted, the run reaches the better step again and
                # nothing is lost.
                if processes.is_first():
                    logger.warning(
                        "The best parameters are gone; the next evaluation counts as best."
                    )
                progress.best_step = progress.best_metrics = None
                return
            best, _ = restored
        self._best = host_tree.to_host(best.params)

    def train(self, train_step: TrainStep, batch_at: Callable[[int], Any]) -> None:
        """Takes one step, without waiting for its result."""
        self.state, metrics = train_step(self.state, batch_at(self.progress.step))
        self._pending.append(metrics)
        self.progress.step += 1
        self.bar.update()
        if not self.step_rate.is_running:
            # Waits for the first step, so that its compilation is not part of the rate.
            jax.block_until_ready(metrics)
            self.step_rate.restart(self.progress.step)

    def sync(self) -> None:
        """Waits for all steps so far.

        Raises:
            NonFiniteLossError: at the first step with a loss or gradient norm that is not finite.
        """
        first_step = self.progress.step - len(self._pending) + 1
        fetched, self._pending = jax.device_get(self._pending), []
        self.step_rate.tick(self.progress.step)
        for step, step_metrics in enumerate(fetched, start=first_step):
            metrics = {name: float(value) for name, value in step_metrics.items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(metrics.get(name, 0.0)):
                    self._write(step, "train", metrics, steps_per_second=None)
                    latest = None if self._store is None else self._store.latest()
                    raise NonFiniteLossError(
                        step, step - 1, latest, metric=name, value=metrics[name]
                    )
            self.progress.accumulate(metrics)

    def log_train_metrics(self) -> None:
        """Writes the mean metrics of the steps since the last call."""
        metrics = self.progress.pop_means()
        self.bar.set_postfix_str(f"loss {metrics.get('loss', math.nan):.4g}")
        self._write(
            self.progress.step, "train", metrics, steps_per_second=self.step_rate.pop_window()
        )

    def evaluate(
        self, evaluate: Callable[[Any], Mapping[str, Any]], monitor: str, mode: Mode
    ) -> None:
        """Evaluates the parameters, writes the metrics, and copies the parameters if they are best.

        Raises:
            TypeError: the metrics are no dict of numbers.
            ValueError: ``monitor`` is not among the metrics.
        """
        metrics = _numbers(evaluate(self.state.params))
        # Differences in the last bit must not let processes disagree on which step is best.
        metrics = dict(zip(metrics, processes.of_first([*metrics.values()]), strict=True))
        if monitor not in metrics:
            raise ValueError(f"monitor={monitor!r} is none of evaluate's metrics: {list(metrics)}")
        if not math.isfinite(metrics[monitor]) and processes.is_first():
            logger.warning(
                "The validation metric %r is %s at step %d.",
                monitor,
                metrics[monitor],
                self.progress.step,
            )
        self._write(self.progress.step, "validation", metrics)
        if self.progress.add_evaluation(metrics, monitor, mode):
            self._best = host_tree.to_host(self.state.params)
        self.step_rate.restart(self.progress.step)

    def save(self) -> None:
        """Saves a checkpoint if the run has a store for them."""
        self.saved_step = self.progress.step
        if self._store is not None:
            self.progress.seconds = self._seconds()
            self._store.save(self.state, self.progress)
        self.step_rate.restart(self.progress.step)

    def best_params(self) -> Any:
        """Returns the parameters of the best evaluation; None if there was no evaluation."""
        return None if self._best is None else host_tree.to_device(self._best, self.state.params)

    def _write(self, step: int, split: str, metrics: Mapping[str, float], **more: Any) -> None:
        for name in ("step", "split", "seconds", "steps_per_second"):
            if name in metrics:
                raise ValueError(f"a metric must not be named {name!r}: each row has that column")
        if self._writer is not None:
            row = {"step": step, "split": split, **metrics, "seconds": self._seconds(), **more}
            self._writer.write(row)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._start_time, 3)


def _numbers(metrics: object) -> dict[str, float]:
    """The metrics that ``evaluate`` returned; TypeError unless they are a dict of numbers."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"evaluate must return a dict of metrics, got {type(metrics).__name__}")
    numbers = {}
    for name, value in metrics.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError) as error:
            got = f"an array of shape {value.shape}" if hasattr(value, "shape") else repr(value)
            raise TypeError(f"evaluate must return numbers, got {name!r}: {got}") from error
    return numbers


class StepRate:
    """Steps per second of training alone; no time is counted before the first restart."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._total = (0, 0.0)
        self._window = (0, 0.0)

    @property
    def is_running(self) -> bool:
        """Whether it was ever started."""
        return self._last is not None

    def restart(self, step: int) -> None:
        """Counts from now and from ``step``; time since the last tick is left out."""
        self._last = (step, time.perf_counter())

    def tick(self, step: int) -> None:
        """Counts the steps up to ``step``, which has just finished, and the time they took."""
        if self._last is None:
            return
        last_step, last_time = self._last
        self._last = (step, time.perf_counter())
        steps, seconds = step - last_step, self._last[1] - last_time
        self._total = (self._total[0] + steps, self._total[1] + seconds)
        self._window = (self._window[0] + steps, self._window[1] + seconds)

    def average(self) -> float | None:
        """Returns the rate over all counted steps; None if there are none."""
        return _quotient(*self._total)

    def pop_window(self) -> float | None:
        """Returns the rate over the steps counted since the last call."""
        window, self._window = self._window, (0, 0.0)
        return _quotient(*window)


def _quotient(steps: int, seconds: float) -> float | None:
    return round(steps / seconds, 3) if steps and seconds else None
