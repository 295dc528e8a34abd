"""Metrics as a run of Weights & Biases."""

import importlib
import uuid
from pathlib import Path
from typing import Any

from gru_jax.training.trackers import RunStatus, TrackerWriter, logger


class WandbWriter(TrackerWriter):
    """Rows to Weights & Biases, in addition to the file; see :class:`TrackerWriter`.

    `WANDB_PROJECT`, `WANDB_MODE` and W&B's other variables hold as usual. With
    ``WANDB_MODE=offline`` the run is written below ``directory``, and ``wandb sync`` sends it.

    Raises:
        ImportError: wandb (the extra ``wandb``) is not installed.
    """

    label = "W&B"

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._wandb: Any = importlib.import_module("wandb")
        self._run: Any = None

    def _open(self, run_id: str | None) -> str:
        self._run = self._wandb.init(
            dir=str(self.directory),
            id=run_id or uuid.uuid4().hex[:8],
            resume="allow",
            project=self._project,
            name=self._name,
            config=self._config,
            tags=[f"{name}={value}" for name, value in self._tags.items()],
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        folder = Path(self._run.dir).parent
        is_offline = self._run.offline
        logger.info(
            "W&B: %s", f"offline, `wandb sync {folder}` sends it" if is_offline else self._run.url
        )
        return self._run.id

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def _summarize(self, summary: dict[str, Any]) -> None:
        self._run.summary.update(summary)

    def _add_artifact(self, path: Path) -> None:
        self._run.log_artifact(str(path), name=f"{self._run.id}-{path.name}", type="run")

    def _end(self, status: RunStatus) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)
