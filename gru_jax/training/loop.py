"""The training loop: steps, evaluations, early stopping, checkpoints, exact resume."""

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax

from gru_jax import _checks
from gru_jax.training import processes
from gru_jax.training.checkpoint import CheckpointOptions, CheckpointStore
from gru_jax.training.errors import CheckpointError
from gru_jax.training.loop_state import LoopState
from gru_jax.training.metrics import MetricsWriter, progress_bar
from gru_jax.training.prefetch import Prefetcher
from gru_jax.training.profile import ProfileOptions, Profiler
from gru_jax.training.progress import Mode, Progress
from gru_jax.training.signals import AgreedSignalHandler, SignalHandler
from gru_jax.training.state import TrainState
from gru_jax.training.step import TrainStep

Resume = Literal["auto", "never", "must"]
Status = Literal["finished", "early_stopped", "interrupted"]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What :func:`fit` returns.

    Attributes:
        state: the last state.
        best_params: parameters of the best evaluation; None if there was no evaluation.
        best_step: step of the best evaluation.
        best_metrics: metrics of the best evaluation.
        status: ``"interrupted"`` if a signal stopped the run, which can then be resumed.
        signal: the signal that interrupted the run; None otherwise.
        steps_per_second: rate of training alone, without the first step (which compiles),
            evaluations and saves; None if there was no second step.
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
    checkpoints: CheckpointOptions | None = None,
    metrics: MetricsWriter | None = None,
    resume: Resume = "auto",
    progress: bool | None = None,
    stop: Callable[[], signal.Signals | None] | None = None,
    profile: ProfileOptions | None = None,
    prefetch: int = 0,
) -> FitResult:
    """Trains until ``steps``, early stopping, SIGTERM or Ctrl-C.

    A step's number is the number of steps taken once it is done: step ``n`` trains on
    ``batch_at(n - 1)``. With checkpoints, a run that ended for any reason can be resumed by the
    same call. It then gives the same result as an uninterrupted run: state, best evaluation and
    rows of metrics (except their times), bit for bit if the device is deterministic.

    On several devices, :class:`gru_jax.training.DataParallel` places the state and the batches. In
    a run of several processes (`jax.distributed.initialize`) each one calls this function with the
    same arguments. Process 0 alone writes metrics, messages and the progress bar, all take part in
    checkpoints, whose directory they share, and a signal to one stops all at the same step.

    Args:
        state: the initial state, as from :meth:`TrainState.create`. It is donated.
        train_step: as from :func:`gru_jax.training.make_train_step`.
        batch_at: returns the batch of a given index, a pytree of arrays. The order of the data
            must be a function of the index alone, see :class:`gru_jax.training.ShuffledIndices`.
        steps: total number of steps, including those before a resume.
        evaluate: returns the validation metrics of given parameters. Of several processes' metrics
            those of process 0 count.
        monitor: the metric that decides which evaluation is best.
        mode: whether the lowest (``"min"``) or the highest (``"max"``) value is best.
        eval_every: steps between evaluations; the last step is always evaluated.
        log_every: steps between training rows, each the mean over the steps since the previous
            one; the last step always has one.
        patience: number of evaluations in a row without improvement after which the run stops;
            None never stops early.
        checkpoints: where to save checkpoints; None saves none. One is saved after each
            evaluation and at a signal.
        metrics: where to write rows of metrics, such as a :class:`gru_jax.training.JsonlWriter`;
            None writes none.
        resume: ``"auto"`` resumes from the latest checkpoint if there is one, ``"must"`` requires
            one, ``"never"`` requires that there is none. A corrupted checkpoint is moved away
            with a warning, and the one before it is used.
        progress: whether to show a progress bar; None shows it if stderr is a terminal.
        stop: returns the signal that asks the run to stop, or None; called between two steps. For
            programs that handle signals themselves. By default the run handles SIGTERM and Ctrl-C.
            Of several processes all must get the same answer at the same step.
        profile: which steps to trace for XProf and TensorBoard; None traces none.
        prefetch: number of batches read ahead, each in a thread of its own, from which
            ``batch_at`` is then called. 0 reads them in this thread while the device computes,
            which suffices unless a batch takes longer than a step. JAX's contexts, such as
            `jax.set_mesh`, do not hold in the threads.

    Raises:
        CheckpointError: checkpoints cannot be written, or ``resume`` does not permit what exists.
        CheckpointMismatchError: the checkpoint belongs to another model or optimizer.
        MetricsError: the metrics file cannot be read or written.
        NonFiniteLossError: the loss or the gradient norm is not finite. No checkpoint is saved
            after such a step.
        TypeError: an argument of the wrong type, or metrics of ``evaluate`` that are no numbers.
        ValueError: an argument is out of range, or ``monitor`` is not among the metrics.
    """
    _checks.instance("state", state, TrainState, "a gru_jax.training.TrainState")
    functions = {"train_step": train_step, "batch_at": batch_at, "evaluate": evaluate}
    for name, function in functions.items():
        _checks.function(name, function)
    for name, value in (("steps", steps), ("eval_every", eval_every), ("log_every", log_every)):
        _checks.positive_int(name, value)
    if patience is not None:
        _checks.positive_int("patience", patience)
    if prefetch:
        _checks.positive_int("prefetch", prefetch)
    _checks.one_of("mode", mode, ("min", "max"))
    _checks.one_of("resume", resume, ("auto", "never", "must"))
    if resume == "must" and checkpoints is None:
        raise ValueError('resume="must" needs checkpoints')
    if checkpoints is not None:
        expected = "a gru_jax.training.CheckpointOptions"
        _checks.instance("checkpoints", checkpoints, CheckpointOptions, expected)
    if metrics is not None and not callable(getattr(metrics, "resume_from", None)):
        raise TypeError(
            "metrics must be a writer, such as gru_jax.training.JsonlWriter(path), "
            f"got {type(metrics).__name__}"
        )
    if profile is not None:
        expected = "a gru_jax.training.ProfileOptions"
        _checks.instance("profile", profile, ProfileOptions, expected)

    with contextlib.ExitStack() as stack:
        if stop is None:
            handler = SignalHandler() if jax.process_count() == 1 else AgreedSignalHandler()
            stop = stack.enter_context(handler).first
        store = None
        if checkpoints is not None:
            store = stack.enter_context(CheckpointStore(checkpoints))
        loop = _start(state, store, resume, metrics)
        if loop.progress.step > steps:
            raise ValueError(f"steps={steps}, but the run has taken {loop.progress.step} already")
        show = progress if processes.is_first() else False
        bar = progress_bar(initial=loop.progress.step, total=steps, show=show)
        loop.bar = stack.enter_context(bar)
        profiler = stack.enter_context(Profiler(profile))
        if prefetch:
            batch_at = stack.enter_context(Prefetcher(batch_at, prefetch, steps))

        while not (
            loop.progress.step == steps or loop.progress.out_of_patience(patience) or stop()
        ):
            with profiler.step(loop.progress.step + 1, loop.state):
                loop.train(train_step, batch_at)
            step = loop.progress.step
            if profiler.is_last(step):
                loop.sync()
                profiler.stop(loop.state)
                # Writing the trace is no time of training.
                loop.step_rate.restart(step)
            is_log_due = step % log_every == 0 or step == steps
            is_evaluation_due = step % eval_every == 0 or step == steps
            if is_log_due or is_evaluation_due:
                loop.sync()
            if is_log_due:
                loop.log_train_metrics()
            if is_evaluation_due:
                loop.evaluate(evaluate, monitor, mode)
                loop.save()
        if loop.saved_step != loop.progress.step:
            loop.sync()
            loop.save()

    if loop.progress.step == steps:
        status = "finished"
    else:
        status = "early_stopped" if loop.progress.out_of_patience(patience) else "interrupted"
    return FitResult(
        state=loop.state,
        best_params=loop.best_params(),
        best_step=loop.progress.best_step,
        best_metrics=loop.progress.best_metrics,
        status=status,
        signal=stop() if status == "interrupted" else None,
        steps_per_second=loop.step_rate.average(),
    )


def _start(
    state: TrainState,
    store: CheckpointStore | None,
    resume: Resume,
    writer: MetricsWriter | None,
) -> LoopState:
    if not processes.is_first():
        writer = None
    loop = LoopState(state, Progress(step=int(state.step)), store, writer)
    if store is not None:
        latest = store.latest()
        if resume == "never" and latest is not None:
            raise CheckpointError(
                f"{store.directory} holds checkpoints already, the latest of them at step "
                f'{latest.name}, and resume is "never".'
            )
        restored = store.restore_latest(state)
        if restored is not None:
            loop.resume(*restored)
        elif resume == "must":
            raise CheckpointError(f"{store.directory} holds no intact checkpoint to resume from.")
    if writer is not None:
        writer.resume_from(loop.progress.step)
    return loop
