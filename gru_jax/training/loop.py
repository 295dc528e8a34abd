"""The training loop: steps, evaluations, early stopping, checkpoints, exact resume."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Any, Literal

from gru_jax import _checks
from gru_jax.training.checkpoint import Checkpoints, CheckpointStore
from gru_jax.training.errors import CheckpointError
from gru_jax.training.metrics import Log, progress_bar
from gru_jax.training.progress import Mode, Progress
from gru_jax.training.run import Run
from gru_jax.training.signals import StopSignals
from gru_jax.training.state import TrainState
from gru_jax.training.step import TrainStep

Resume = Literal["auto", "never", "must"]
Status = Literal["finished", "early_stopped", "interrupted"]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What :func:`fit` returns.

    Attributes:
        state: the last one.
        best_params: those of the best evaluation; None where there was no evaluation.
        best_step: its step.
        best_metrics: its figures.
        status: ``"interrupted"`` says that a signal came, and that the run can be resumed.
        signal: which one; None unless interrupted.
        steps_per_second: of training alone: without the first step, which compiles, without
            evaluations and saving. None where there was no second step.
    """

    state: TrainState
    best_params: Any
    best_step: int | None
    best_metrics: dict[str, float] | None
    status: Status
    signal: signal.Signals | None
    steps_per_second: float | None


def fit(
    state: TrainState,
    train_step: TrainStep,
    batch_at: Callable[[int], Any],
    *,
    steps: int,
    evaluate: Callable[[Any], Mapping[str, Any]],
    monitor: str = "loss",
    mode: Mode = "min",
    eval_every: int = 100,
    log_every: int = 10,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    metrics: Log | None = None,
    resume: Resume = "auto",
    progress: bool | None = None,
) -> FitResult:
    """Trains until ``steps``, until nothing improves any more, or until SIGTERM or Ctrl-C.

    A step's number says how many steps are taken when it is done: step ``n`` trains on
    ``batch_at(n - 1)``. With checkpoints, a run that was ended in any way and is called again
    with the same arguments gives what an unbroken one does: state, best evaluation and rows of
    metrics (their times excepted), bit for bit where the device computes so.

    Args:
        state: where to begin, as :meth:`TrainState.create` makes it. It is donated.
        train_step: as :func:`gru_jax.training.make_train_step` makes it.
        batch_at: the batch of a given index, a pytree of arrays. The order of the data is a
            function of the index alone, see :class:`gru_jax.training.Batches`.
        steps: at which the run is finished, those before a resume included.
        evaluate: the validation figures of given parameters.
        monitor: which of them decides what is best.
        mode: whether the lowest (``"min"``) or the highest (``"max"``) is best.
        eval_every: steps between evaluations; there is one at the last step, too.
        log_every: steps between training rows, each the mean over the steps since the one before;
            there is one at the last step, too.
        patience: evaluations in a row without improvement after which the run ends; None: never.
        checkpoints: where to keep them; None: nowhere. One is saved after each evaluation, and at
            a signal.
        metrics: where to append rows of figures, such as a :class:`gru_jax.training.MetricsLog`;
            None: nowhere.
        resume: ``"auto"`` goes on from the newest checkpoint where there is one, ``"must"``
            insists that there is one, ``"never"`` that there is none. A damaged checkpoint is
            moved aside with a warning, and the one before it is taken.
        progress: whether to show a bar; None: where stderr is a terminal.

    Raises:
        CheckpointError: checkpoints cannot be written, or are not what ``resume`` asks for.
        CheckpointMismatchError: the checkpoint there is that of another model or optimizer.
        MetricsError: the file of metrics cannot be read or written.
        NonFiniteLossError: the loss or the gradients' norm is not finite. Nothing is saved after
            such a step.
        ValueError: an argument out of its range, or ``monitor`` not among the figures.
    """
    for name, value in (("steps", steps), ("eval_every", eval_every), ("log_every", log_every)):
        _checks.positive_int(name, value)
    if patience is not None:
        _checks.positive_int("patience", patience)
    _checks.one_of("mode", mode, ("min", "max"))
    _checks.one_of("resume", resume, ("auto", "never", "must"))
    if resume == "must" and checkpoints is None:
        raise ValueError('resume="must" needs checkpoints')

    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        store = None
        if checkpoints is not None:
            store = stack.enter_context(CheckpointStore(checkpoints))
        run = _begin(state, store, resume, metrics)
        if run.progress.step > steps:
            raise ValueError(f"steps={steps}, but the run has taken {run.progress.step} already")
        bar = progress_bar(initial=run.progress.step, total=steps, show=progress)
        run.bar = stack.enter_context(bar)

        while not (
            run.progress.step == steps or run.progress.is_exhausted(patience) or signals.received
        ):
            run.train(train_step, batch_at)
            step = run.progress.step
            is_log_due = step % log_every == 0 or step == steps
            is_evaluation_due = step % eval_every == 0 or step == steps
            if is_log_due or is_evaluation_due:
                run.collect()
            if is_log_due:
                run.report_training()
            if is_evaluation_due:
                run.evaluate(evaluate, monitor, mode)
                run.save()
        if run.saved_step != run.progress.step:
            run.collect()
            run.save()

    if run.progress.step == steps:
        status = "finished"
    else:
        status = "early_stopped" if run.progress.is_exhausted(patience) else "interrupted"
    return FitResult(
        state=run.state,
        best_params=run.best_params(),
        best_step=run.progress.best_step,
        best_metrics=run.progress.best_metrics,
        status=status,
        signal=signals.received if status == "interrupted" else None,
        steps_per_second=run.rate.overall(),
    )


def _begin(
    state: TrainState, store: CheckpointStore | None, resume: Resume, log: Log | None
) -> Run:
    run = Run(state, Progress(step=int(state.step)), store, log)
    if store is not None:
        newest = store.newest()
        if resume == "never" and newest is not None:
            raise CheckpointError(
                f"{store.directory} holds checkpoints already, the newest of them at step "
                f'{newest.name}, and resume is "never".'
            )
        restored = store.restore_newest(state)
        if restored is not None:
            run.resume(*restored)
        elif resume == "must":
            raise CheckpointError(f"{store.directory} holds no whole checkpoint to resume from.")
    if log is not None:
        log.begin(run.progress.step)
    return run
