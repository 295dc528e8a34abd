"""Output of a run: rows of JSON in a file, and a progress bar."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from tqdm import tqdm

from gru_jax import _files
from gru_jax.training.errors import MetricsError, error_message
from gru_jax.typing import Array

MAX_LINE_BYTES = 1 << 20
SPARE_BYTES = 64 << 20


class MetricsWriter(Protocol):
    """Destination of a run's metrics: a :class:`JsonlWriter`, or any class with its methods."""

    def resume_from(self, step: int) -> None:
        """Called once before the first row. ``step`` is the step to resume from."""
        ...

    def write(self, row: Mapping[str, Any]) -> None:
        """Called with each row. Metrics need not be finite."""
        ...


class RowsWriter(MetricsWriter, Protocol):
    """A writer whose rows :func:`read_metrics` reads back, such as a :class:`JsonlWriter`."""

    @property
    def path(self) -> str | os.PathLike[str]:
        """The file of the rows."""
        ...


@dataclasses.dataclass(frozen=True)
class JsonlWriter:
    """A file with one JSON object per line, to which a run appends.

    A row has ``step``, ``split`` (``"train"`` or ``"validation"``), the metrics, ``seconds`` since
    the run's start (without the time between an interruption and a resume), and in training rows
    ``steps_per_second`` since the previous one. A metric that is not finite is null, because JSON
    has no such number.

    Attributes:
        path: path of the file. The file and its directory are made if they do not exist.
    """

    path: str | os.PathLike[str]

    def resume_from(self, step: int) -> None:
        """Prepares the file for a run that resumes from ``step``.

        Rows after that step are removed, because the run will write them again, and so is an
        incomplete last line. The file is replaced atomically, so that no row is lost if the
        process is killed.

        Raises:
            MetricsError: the file cannot be read or written, or has a line that is not a row.
        """
        path = Path(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            before = path.read_bytes()
            rows = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
            after = "".join(f"{row}\n" for row in rows).encode()
            if after != before:
                _files.write_atomically(path, after)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row.

        Raises:
            MetricsError: the file cannot be written.
        """
        line = json.dumps({name: _json_value(value) for name, value in row.items()})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the rows of a :class:`JsonlWriter`, without an incomplete last line.

    The rows take at most 3 times the file's size and 64 MiB.

    Raises:
        MetricsError: the file cannot be read, has a line that is not a row or is longer than
            :data:`MAX_LINE_BYTES`, or has so many short rows that they take more memory.
    """
    rows, wrong, memory = [], "", 0
    try:
        with open(path, "rb") as file:
            most = SPARE_BYTES + 3 * os.fstat(file.fileno()).st_size
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if wrong:
                    raise MetricsError(wrong)
                row = _parse_row(line)
                if row is None:
                    # An error, if another line follows: the last one may be incomplete.
                    wrong = _wrong_line(number, path, line)
                    continue
                rows.append(row)
                # Numbers take 24 to 32 bytes; the names are shared.
                memory += sys.getsizeof(row) + 32 * len(row)
                if memory > most:
                    raise MetricsError(
                        f"The rows of {path} take more memory than 3 times its size and 64 MiB: "
                        f"from line {number} on they are too many and too short."
                    )
    except OSError as error:
        raise MetricsError(f"The metrics file {path} cannot be read: {error.strerror}.") from error
    return rows


def _parse_row(line: bytes) -> dict[str, Any] | None:
    if len(line) > MAX_LINE_BYTES:
        return None
    try:
        row = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return {sys.intern(name): value for name, value in row.items()} if _is_row(row) else None


def _wrong_line(number: int, path: str | os.PathLike[str], line: bytes) -> str:
    return (
        f"Line {number} of {path} is not a row of metrics: {line[:80].decode(errors='replace')!r}. "
        "Delete that line: only its point of the learning curves is lost."
    )


def _is_row(row: Any) -> bool:
    """Whether a value has a step, and otherwise only numbers, nulls and a split."""
    if not isinstance(row, dict) or not isinstance(row.get("split", ""), str):
        return False
    step = row.get("step")
    if type(step) is not int or not 0 <= step < 2**63:
        return False
    numbers = [value for name, value in row.items() if name not in ("step", "split")]
    return all(
        value is None or type(value) is float or (type(value) is int and abs(value) < 2**1023)
        for value in numbers
    )


def mean_metrics(
    metric_fn: Callable[[Any, Any], tuple[Mapping[str, Array], Array | float]],
    params: Any,
    batches: Iterable[Any],
) -> dict[str, float]:
    """Returns metrics averaged over all batches, weighted by their sizes.

    Args:
        metric_fn: ``(params, batch) -> (sums, weight)``, preferably jitted: a dict of scalars
            summed over the batch's examples, and the number of examples (or frames, or tokens).
        params: passed to ``metric_fn``.
        batches: batches of any sizes.

    Raises:
        TypeError: ``metric_fn`` returns something else.
        ValueError: the weights sum to zero.
    """
    # Dispatches all batches before it waits for the first result.
    results = jax.device_get([metric_fn(params, batch) for batch in batches])
    for result in results[:1]:
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Mapping)):
            raise TypeError(
                f"metric_fn must return (sums, weight), sums a dict, got {type(result).__name__}"
            )
    weight = math.fsum(float(weight) for _, weight in results)
    if weight == 0:
        raise ValueError("batches must have a total weight above 0, got 0")
    names = results[0][0]
    return {name: math.fsum(float(sums[name]) for sums, _ in results) / weight for name in names}


def progress_bar(*, initial: int, total: int, show: bool | None) -> tqdm:
    """Returns a progress bar of steps with rate and remaining time, on stderr.

    ``show=None`` shows it only if stderr is a terminal.
    """
    disable = None if show is None else not show
    return tqdm(initial=initial, total=total, disable=disable, unit="step", dynamic_ncols=True)


def _unwritable(path: str | os.PathLike[str], error: OSError) -> MetricsError:
    return MetricsError(f"The metrics file {path} cannot be written: {error_message(error)}.")


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
