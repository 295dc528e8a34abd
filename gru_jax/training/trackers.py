"""Experiment trackers: what they know of a run, and what all writers for them share."""

import abc
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from gru_jax import _files
from gru_jax.training.metrics import MetricsWriter, RowsWriter, read_metrics

logger = logging.getLogger("gru_jax.training.trackers")

RunStatus = Literal["finished", "interrupted", "failed"]

# Anything between the scheme of a URL and its host.
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_LONGEST_REASON = 200


class Tracker(MetricsWriter, Protocol):
    """A :class:`MetricsWriter` that also knows how a run ends.

    :func:`gru_jax.training.fit` calls the methods of `MetricsWriter` alone; the others are for the
    program that evaluates the trained model. A tracker gets the run's config and tags when it is
    made.
    """

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Stores final values of the run, such as its test metrics."""
        ...

    def add_artifact(self, path: str | os.PathLike[str]) -> None:
        """Stores a copy of a file."""
        ...

    def close(self, status: RunStatus = "finished") -> None:
        """Ends the run; one that was interrupted can be resumed."""
        ...


class TrackerWriter(abc.ABC):
    """A :class:`Tracker` that never stops a run: base of those for W&B and MLflow.

    Each row is written to ``rows`` first, so nothing is lost where the tracker cannot be reached.
    At the first error the tracker is left alone for the rest of the run, which one line says.

    A resumed run continues the same run of the tracker. ``run.json`` in ``directory`` holds its id
    and its latest row: rows that the tracker has are not sent again, and earlier ones that it lacks
    are sent at the start.

    As a context manager it closes itself: as ``"failed"`` after an error.

    Args:
        rows: the writer of the rows, a :class:`JsonlWriter` or another one's writer around it.
        directory: directory for the files of this writer and of the tracker.
        config: nested mapping of the run's settings. It must hold no secrets.
        tags: what runs are grouped by, such as ``{"task": "digits"}``.
        name: name of the run; None lets the tracker choose one.
        project: name of the group of runs; None takes the tracker's own environment variable or
            default.
    """

    label: str

    def __init__(
        self,
        rows: RowsWriter,
        directory: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        project: str | None = None,
    ):
        self.directory = Path(directory)
        self._rows = rows
        self._config, self._tags = dict(config or {}), dict(tags or {})
        self._name, self._project = name, project
        self._is_open = False
        self._latest = (-1, False)
        self._id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close("finished")
        else:
            # A signal is no Exception.
            self.close("failed" if issubclass(kind, Exception) else "interrupted")

    @property
    def path(self) -> str | os.PathLike[str]:
        """The file of the rows."""
        return self._rows.path

    def resume_from(self, step: int) -> None:
        """Prepares the rows, opens the run of the tracker, and sends the rows that it lacks."""
        self.close("interrupted")
        self._rows.resume_from(step)
        self._is_open = True
        self._try(self._start)
        for row in read_metrics(self.path):
            self._send(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Writes a row to the file, and sends it unless the tracker has it already."""
        self._rows.write(row)
        self._send(row)

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Stores final values of the run; nested names are joined by a slash."""
        self._try(lambda: self._summarize(dict(flat(summary, "/"))))

    def add_artifact(self, path: str | os.PathLike[str]) -> None:
        """Stores a copy of a file."""
        self._try(lambda: self._add_artifact(Path(path)))

    def close(self, status: RunStatus = "finished") -> None:
        """Ends the run of the tracker; :meth:`resume_from` opens it again."""
        self._try(lambda: self._end(status))
        self._is_open = False

    @abc.abstractmethod
    def _open(self, run_id: str | None) -> str:
        """Opens the run with this id, or a new one for None; returns its id."""

    @abc.abstractmethod
    def _log(self, step: int, metrics: dict[str, float]) -> None:
        """Sends the finite metrics of a row."""

    @abc.abstractmethod
    def _summarize(self, summary: dict[str, Any]) -> None: ...

    @abc.abstractmethod
    def _add_artifact(self, path: Path) -> None: ...

    @abc.abstractmethod
    def _end(self, status: RunStatus) -> None: ...

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        state = self.directory / "run.json"
        if state.exists():
            saved = json.loads(state.read_text())
            self._id, self._latest = saved["id"], (saved["step"], saved["is_validation"])
        self._id = self._open(self._id)
        self._save(self._latest)

    def _send(self, row: Mapping[str, Any]) -> None:
        # The training row of a step precedes its validation.
        place = (row["step"], row["split"] != "train")
        if not self._is_open or place <= self._latest:
            return
        metrics = {
            name if name == "steps_per_second" else f"{row['split']}/{name}": value
            for name, value in row.items()
            if name not in ("step", "split", "seconds")
            and value is not None
            and math.isfinite(value)
        }
        before = self._latest

        def send() -> None:
            # Saved first: if the process is killed here, a row is missing instead of being double.
            self._save(place)
            try:
                self._log(row["step"], metrics)
            except Exception:
                self._save(before)
                raise

        self._try(send)

    def _save(self, latest: tuple[int, bool]) -> None:
        self._latest = latest
        step, is_validation = latest
        state = {"id": self._id, "step": step, "is_validation": is_validation}
        _files.write_atomically(self.directory / "run.json", json.dumps(state).encode())

    def _try(self, action: Callable[[], None]) -> None:
        """Does something with the tracker; after an error nothing more until the next resume."""
        if not self._is_open:
            return
        try:
            action()
        except Exception as error:
            self._is_open = False
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = _CREDENTIALS.sub("", lines[0])[:_LONGEST_REASON].rstrip(".")
            logger.warning(
                "%s gets no more of this run (%s). All metrics are in %s.",
                self.label,
                reason,
                self.path,
            )


def flat(values: Mapping[str, Any], separator: str, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by their joined names."""
    joined: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            joined |= flat(value, separator, f"{prefix}{name}{separator}")
        else:
            joined[f"{prefix}{name}"] = value
    return joined
