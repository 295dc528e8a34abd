"""The rows of a run as scalars for TensorBoard, beside the file that they are read back from."""

import contextlib
import importlib
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from gru_jax.training.errors import MetricsError, reason
from gru_jax.training.metrics import MetricsLog, read_metrics


class TensorBoardLog:
    """A :class:`MetricsLog` whose rows go into event files for TensorBoard, too.

    A scalar is named after its split and figure, ``train/loss`` or ``validation/loss``; the other
    one is ``steps_per_second``. A scalar's time is the run's beginning and the seconds since,
    breaks not counted. Figures that are not finite are left out.

    The event files are written anew when a run begins or goes on, from the rows that are kept: no
    step stands in them twice, and earlier rows are in them even where this was not used before.

    Used as a context, it is closed at the end.

    Args:
        metrics: the file of rows.
        directory: of the event files, and of nothing else. It is made where it does not exist.

    Raises:
        ImportError: tensorboardX, the extra ``tensorboard``, is not installed.
    """

    def __init__(self, metrics: MetricsLog, directory: str | os.PathLike[str]):
        self._metrics = metrics
        self._directory = Path(directory)
        self._files: Any = importlib.import_module("tensorboardX.event_file_writer")
        self._events: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        self._writer: Any = None
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def begin(self, step: int) -> None:
        """Makes both ready for a run that goes on from ``step``: :meth:`MetricsLog.begin`.

        Raises:
            MetricsError: a file cannot be read or written, or has a line that is no row.
        """
        self._metrics.begin(step)
        rows = read_metrics(self._metrics.path)
        self._began = time.time() - (rows[-1].get("seconds", 0) if rows else 0)
        self.close()
        with self._errors_named():
            self._directory.mkdir(parents=True, exist_ok=True)
            for earlier in self._directory.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = self._files.EventsWriter(str(self._directory / "events"))
            # A TensorBoard that is looking on forgets what it has read.
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._writer.write_event(self._events.Event(step=0, session_log=start))
            for row in rows:
                self._write(row)
            self._writer.flush()

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row: :meth:`MetricsLog.append`. The scalars can be read at once.

        Raises:
            MetricsError: a file cannot be written.
        """
        self._metrics.append(row)
        with self._errors_named():
            self._write(row)
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file; :meth:`begin` opens another."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._errors_named():
                writer.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        event = self._events.Event(
            step=row["step"], wall_time=self._began + row.get("seconds", 0.0)
        )
        for name, value in row.items():
            is_figure = name not in ("step", "split", "seconds")
            if is_figure and value is not None and math.isfinite(value):
                tag = name if name == "steps_per_second" else f"{row['split']}/{name}"
                event.summary.value.add(tag=tag, simple_value=value)
        self._writer.write_event(event)

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MetricsError(
                f"The TensorBoard files in {self._directory} cannot be written: {reason(error)}."
            ) from error
