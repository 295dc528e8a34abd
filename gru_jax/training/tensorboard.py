"""Metrics as scalars for TensorBoard, in addition to the JSON lines that can be read back."""

import contextlib
import importlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from gru_jax.training.errors import MetricsError, error_message
from gru_jax.training.metrics import RowsWriter, read_metrics


class TensorBoardWriter:
    """A :class:`JsonlWriter` that also writes each row to TensorBoard event files.

    The tag of a scalar is its split and metric, such as ``train/loss`` or ``validation/loss``, or
    ``steps_per_second``. Its wall time is the run's start plus the row's ``seconds``. Metrics that
    are not finite are left out.

    When a run starts or resumes, the event files are written again from the remaining rows. No
    step is in them twice, and they contain earlier rows even if an earlier part of the run wrote
    no event files.

    As a context manager it closes itself at the end.

    Args:
        rows: the writer of the rows, which may be one of an experiment tracker.
        directory: directory of the event files, used for nothing else; made if it does not exist.

    Raises:
        ImportError: tensorboardX (the extra ``tensorboard``) is not installed.
    """

    def __init__(self, rows: RowsWriter, directory: str | os.PathLike[str]):
        self._rows = rows
        self._directory = Path(directory)
        self._files: Any = importlib.import_module("tensorboardX.event_file_writer")
        self._events: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._writer: Any = None
        self._start_time = 0.0

    @property
    def path(self) -> str | os.PathLike[str]:
        """The file of the rows."""
        return self._rows.path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def resume_from(self, step: int) -> None:
        """Prepares all files for a run that resumes from ``step``.

        See :meth:`JsonlWriter.resume_from`.

        Raises:
            MetricsError: a file cannot be read or written, or has a line that is not a row.
        """
        self._rows.resume_from(step)
        rows = read_metrics(self._rows.path)
        self._start_time = time.time() - (rows[-1].get("seconds", 0) if rows else 0)
        self.close()
        with self._named_errors():
            self._directory.mkdir(parents=True, exist_ok=True)
            for earlier in self._directory.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = self._files.EventsWriter(str(self._directory / "events"))
            # A running TensorBoard discards what it has read before.
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._writer.write_event(self._events.Event(step=0, session_log=start))
            for row in rows:
                self._write_event(row)
            self._writer.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row: :meth:`JsonlWriter.write`. The scalars are flushed to disk.

        Raises:
            MetricsError: a file cannot be written.
        """
        self._rows.write(row)
        with self._named_errors():
            self._write_event(row)
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file; :meth:`resume_from` opens another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._named_errors():
                writer.close()

    def _write_event(self, row: Mapping[str, Any]) -> None:
        event = self._events.Event(
            step=row["step"], wall_time=self._start_time + row.get("seconds", 0.0)
        )
        for name, value in row.items():
            is_metric = name not in ("step", "split", "seconds")
            if is_metric and value is not None and math.isfinite(value):
                tag = name if name == "steps_per_second" else f"{row['split']}/{name}"
                event.summary.value.add(tag=tag, simple_value=value)
        self._writer.write_event(event)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MetricsError(
                f"The TensorBoard files in {self._directory} cannot be written: "
                f"{error_message(error)}."
            ) from error
