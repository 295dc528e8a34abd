"""Where a run's metrics go in addition to its JSON lines: TensorBoard, W&B and MLflow."""

import contextlib
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.config import METADATA_FIELDS, ExperimentConfig
from experiments.errors import UserError
from experiments.runs import bucket
from experiments.runs.directory import RunDirectory
from experiments.runs.log_options import TENSORBOARD
from experiments.runs.records import read_summary
from gru_jax import training
from gru_jax.training.trackers import RunStatus

WRITERS = {"wandb": training.WandbWriter, "mlflow": training.MlflowWriter}


@dataclass
class Logs:
    """The open logs of a run.

    Attributes:
        writer: the writer of all.
        trackers: those of them that know a summary, files and an end.
    """

    writer: training.MetricsWriter
    trackers: list[training.Tracker]

    def add_results(self, run: RunDirectory) -> None:
        """Stores the final metrics and the plots of a finished run."""
        summary = read_summary(run)
        kept = ("test", "validation", "best_step", "parameters", "status")
        for tracker in self.trackers:
            tracker.summarize({name: summary[name] for name in kept})
            for path in (run.config, run.meta, run.summary, *sorted(run.plots.glob("*"))):
                tracker.add_artifact(path)

    def close(self, status: RunStatus) -> None:
        """Ends the run of each tracker."""
        for tracker in self.trackers:
            tracker.close(status)


@contextlib.contextmanager
def open_logs(
    run: RunDirectory, config: ExperimentConfig, names: Collection[str]
) -> Iterator[Logs]:
    """Opens the logs of a run.

    Args:
        run: the run.
        config: its config, which trackers get without metadata fields.
        names: names of `experiments.runs.log_options.LOGS`.
    """
    # Trackers say once where the run is, and once if they cannot be reached.
    logging.getLogger("gru_jax.training.trackers").setLevel(logging.INFO)
    with contextlib.ExitStack() as stack:
        writer: training.RowsWriter = training.JsonlWriter(run.metrics)
        trackers: list[training.Tracker] = []
        for name in names:
            if name == TENSORBOARD:
                events = training.TensorBoardWriter(writer, run.tensorboard)
                writer = stack.enter_context(events)
                continue
            tracker = WRITERS[name](
                writer,
                run.tracker(name),
                config=config.model_dump(exclude={*METADATA_FIELDS}),
                tags={"task": config.task, "cell": config.model.cell},
                name="/".join(Path(bucket.original(run.path.resolve())).parts[-2:]),
            )
            trackers.append(tracker)
            writer = stack.enter_context(tracker)
        yield Logs(writer, trackers)


def log_finished(run: RunDirectory, config: ExperimentConfig, names: Collection[str]) -> None:
    """Writes the logs of a finished run from its JSON lines.

    Raises:
        UserError: the metrics cannot be read, or the files cannot be written.
    """
    try:
        with open_logs(run, config, names) as logs:
            logs.writer.resume_from(read_summary(run)["steps"])
            logs.add_results(run)
    except training.TrainingError as error:
        raise UserError(str(error)) from None
