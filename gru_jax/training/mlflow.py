"""Metrics as a run of MLflow."""

import importlib
import os
import re
import time
from pathlib import Path
from typing import Any

from gru_jax.training.trackers import RunStatus, TrackerWriter, flat, logger

# MLflow allows no other characters in the name of a metric or parameter.
_OTHER = re.compile(r"[^\w. /-]")
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MlflowWriter(TrackerWriter):
    """Rows to MLflow, in addition to the file; see :class:`TrackerWriter`.

    `MLFLOW_TRACKING_URI` and MLflow's other variables hold as usual. ``project`` is the name of the
    experiment; the default is `MLFLOW_EXPERIMENT_NAME`, then ``gru_jax``.

    Raises:
        ImportError: mlflow (the extra ``mlflow``) is not installed.
    """

    label = "MLflow"

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._mlflow: Any = importlib.import_module("mlflow")
        self._client: Any = None

    def _open(self, run_id: str | None) -> str:
        self._client = self._mlflow.MlflowClient()
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        project = self._project or os.environ.get("MLFLOW_EXPERIMENT_NAME", "gru_jax")
        experiment = self._client.get_experiment_by_name(project)
        group = experiment.experiment_id if experiment else self._client.create_experiment(project)
        run = self._client.create_run(group, run_name=self._name, tags=self._tags)
        for name, value in flat(self._config, ".").items():
            self._client.log_param(run.info.run_id, _name(name), value)
        logger.info("MLflow: run %s of experiment %s", run.info.run_id, project)
        return run.info.run_id

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        now = int(1000 * time.time())
        metric = self._mlflow.entities.Metric
        rows = [metric(_name(name), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=rows)

    def _summarize(self, summary: dict[str, Any]) -> None:
        for name, value in summary.items():
            if isinstance(value, int | float):
                self._client.log_metric(self._id, _name(name), value)
            else:
                self._client.set_tag(self._id, _name(name), value)

    def _add_artifact(self, path: Path) -> None:
        self._client.log_artifact(self._id, str(path))

    def _end(self, status: RunStatus) -> None:
        self._client.set_terminated(self._id, _STATUS[status])


def _name(name: str) -> str:
    return _OTHER.sub("_", name)
