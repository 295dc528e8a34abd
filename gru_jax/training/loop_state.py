"""A run under way: what the loop does, one method each."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from tqdm import tqdm

from gru_jax.training import host_tree as snapshot
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.errors import NonFiniteLossError
from gru_jax.training.metrics import Log
from gru_jax.training.progress import Mode, Progress
from gru_jax.training.state import TrainState
from gru_jax.training.step import Metrics, TrainStep

logger = logging.getLogger("gru_jax.training")


class Run:
    """The state of :func:`gru_jax.training.fit`.

    Attributes:
        state: the newest one, perhaps still being computed.
        progress: what goes into a checkpoint beside it.
        saved_step: of the newest save; None where there was none.
        rate: steps per second.
        bar: the progress bar.
    """

    bar: tqdm

    def __init__(
        self,
        state: TrainState,
        progress: Progress,
        store: CheckpointStore | None,
        log: Log | None,
    ):
        self.state = state
        self.progress = progress
        self.saved_step: int | None = None
        self.rate = Rate()
        self._store = store
        self._log = log
        self._began = time.perf_counter()
        # The loop runs ahead of the device: these metrics are of steps nobody has waited for yet.
        self._pending: list[Metrics] = []
        self._best: dict[str, Any] | None = None

    def resume(self, state: TrainState, progress: Progress) -> None:
        """Goes on from a checkpoint."""
        self.state = state
        self.progress = progress
        self.saved_step = progress.step
        self._began -= progress.seconds
        if progress.best_step is None or self._store is None:
            return
        best = state
        if progress.best_step != progress.step:
            restored = self._store.restore(progress.best_step, state)
            if restored is None:
                # Where a later, better checkpoint was damaged, this one was deleted in its favour:
                # then the run comes to the better one again, and nothing is lost.
                logger.warning("The best parameters are gone; the next evaluation counts as best.")
                progress.best_step = progress.best_metrics = None
                return
            best, _ = restored
        self._best = snapshot.to_host(best.params)

    def train(self, train_step: TrainStep, batch_at: Callable[[int], Any]) -> None:
        """Takes one step, without waiting for it."""
        self.state, metrics = train_step(self.state, batch_at(self.progress.step))
        self._pending.append(metrics)
        self.progress.step += 1
        self.bar.update()
        if not self.rate.is_running:
            # The first step is waited for, so that its compilation does not count.
            jax.block_until_ready(metrics)
            self.rate.start(self.progress.step)

    def collect(self) -> None:
        """Waits for all steps so far.

        Raises:
            NonFiniteLossError: the first of them that is not finite.
        """
        first_step = self.progress.step - len(self._pending) + 1
        fetched, self._pending = jax.device_get(self._pending), []
        self.rate.count(self.progress.step)
        for step, metrics in enumerate(fetched, start=first_step):
            figures = {name: float(value) for name, value in metrics.items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(figures.get(name, 0.0)):
                    self._append(step, "train", figures, steps_per_second=None)
                    newest = None if self._store is None else self._store.newest()
                    raise NonFiniteLossError(
                        step, step - 1, newest, figure=name, value=figures[name]
                    )
            self.progress.add_step(figures)

    def report_training(self) -> None:
        """Reports the means over the steps since the last report."""
        figures = self.progress.take_window_means()
        self.bar.set_postfix_str(f"loss {figures.get('loss', math.nan):.4g}")
        self._append(
            self.progress.step, "train", figures, steps_per_second=self.rate.since_last_call()
        )

    def evaluate(
        self, evaluate: Callable[[Any], Mapping[str, Any]], monitor: str, mode: Mode
    ) -> None:
        """Evaluates the parameters, reports the figures, and keeps the best parameters.

        Raises:
            ValueError: ``monitor`` is not among the figures.
        """
        figures = {name: float(value) for name, value in evaluate(self.state.params).items()}
        if monitor not in figures:
            raise ValueError(f"monitor={monitor!r} is none of evaluate's figures: {list(figures)}")
        if not math.isfinite(figures[monitor]):
            logger.warning(
                "The validation figure %r is %s at step %d.",
                monitor,
                figures[monitor],
                self.progress.step,
            )
        self._append(self.progress.step, "validation", figures)
        if self.progress.add_evaluation(figures, monitor, mode):
            self._best = snapshot.to_host(self.state.params)
        self.rate.start(self.progress.step)

    def save(self) -> None:
        """Saves a checkpoint, where there are to be any."""
        self.saved_step = self.progress.step
        if self._store is not None:
            self.progress.seconds = self._seconds()
            self._store.save(self.state, self.progress)
        self.rate.start(self.progress.step)

    def best_params(self) -> Any:
        """Returns the parameters of the best evaluation; None where there was none."""
        return None if self._best is None else snapshot.to_device(self._best, self.state.params)

    def _append(self, step: int, split: str, figures: Mapping[str, float], **more: Any) -> None:
        for name in ("step", "split", "seconds", "steps_per_second"):
            if name in figures:
                raise ValueError(f"a figure must not be named {name!r}: each row has its own")
        if self._log is not None:
            row = {"step": step, "split": split, **figures, "seconds": self._seconds(), **more}
            self._log.append(row)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)


class Rate:
    """Steps per second of training alone; the clock stands until it is started."""

    def __init__(self) -> None:
        self._since: tuple[int, float] | None = None
        self._overall = (0, 0.0)
        self._window = (0, 0.0)

    @property
    def is_running(self) -> bool:
        """Whether it was ever started."""
        return self._since is not None

    def start(self, step: int) -> None:
        """Counts from now, and from ``step``; what was not counted before is left out."""
        self._since = (step, time.perf_counter())

    def count(self, step: int) -> None:
        """Counts the steps up to ``step``, which is done now, and the time they took."""
        if self._since is None:
            return
        earlier_step, earlier = self._since
        self._since = (step, time.perf_counter())
        taken, seconds = step - earlier_step, self._since[1] - earlier
        self._overall = (self._overall[0] + taken, self._overall[1] + seconds)
        self._window = (self._window[0] + taken, self._window[1] + seconds)

    def overall(self) -> float | None:
        """Returns the rate over everything counted; None where that is nothing."""
        return _quotient(*self._overall)

    def since_last_call(self) -> float | None:
        """Returns the rate over what was counted since the last call."""
        window, self._window = self._window, (0, 0.0)
        return _quotient(*window)


def _quotient(steps: int, seconds: float) -> float | None:
    return round(steps / seconds, 3) if steps and seconds else None
