"""What a run reports while it goes on: rows of JSON in a file, and a progress bar."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from tqdm import tqdm

from gru_jax.training.errors import MetricsError, reason
from gru_jax.typing import Array


class Log(Protocol):
    """What a run reports to: a :class:`MetricsLog`, or another with the same methods."""

    def begin(self, step: int) -> None:
        """Is called once, before the first row: the run goes on from ``step``."""
        ...

    def append(self, row: Mapping[str, Any]) -> None:
        """Is called with each row, whose figures need not be finite."""
        ...


@dataclasses.dataclass(frozen=True)
class MetricsLog:
    """A file with one JSON object a line, to which a run appends.

    A row has ``step``, ``split`` (``"train"`` or ``"validation"``), the figures, ``seconds`` since
    the run's beginning (breaks not counted), and for the training ones ``steps_per_second`` since
    the row before. A figure that is not finite is null: JSON has no such number.

    Attributes:
        path: of the file. It and its directory are made where they do not exist.
    """

    path: str | os.PathLike[str]

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes one row.

        Raises:
            MetricsError: the file cannot be written.
        """
        line = json.dumps({name: _json_value(value) for name, value in row.items()})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def begin(self, step: int) -> None:
        """Makes the file ready for a run that goes on from ``step``.

        Rows after that step, which the run is going to write again, are dropped, as is a last
        line that was cut off. The file is replaced as a whole, so that a kill loses nothing.

        Raises:
            MetricsError: the file cannot be read or written, or has a line that is no row.
        """
        path = Path(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            before = path.read_text(encoding="utf-8", errors="replace")
            kept = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
            after = "".join(f"{line}\n" for line in kept)
            if after != before:
                replacement = path.with_name(path.name + ".tmp")
                replacement.write_text(after, encoding="utf-8")
                replacement.replace(path)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the rows of a :class:`MetricsLog`, without a last line that was cut off.

    Raises:
        MetricsError: the file cannot be read, or has a line that is no row.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise MetricsError(f"The metrics file {path} cannot be read: {error.strerror}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        elif number < len(lines):
            raise MetricsError(f"Line {number} of {path} is not a row of metrics: {line[:80]!r}.")
    return rows


def evaluate_mean(
    metric_fn: Callable[[Any, Any], tuple[Mapping[str, Array], Array | float]],
    params: Any,
    batches: Iterable[Any],
) -> dict[str, float]:
    """Returns figures averaged over all batches, each by its weight.

    Args:
        metric_fn: ``(params, batch) -> (sums, weight)``, best jitted: a dict of scalars summed
            over the batch's examples, and the number of examples (or frames, or tokens).
        params: handed to ``metric_fn``.
        batches: of any sizes.

    Raises:
        ValueError: the weights add up to zero.
    """
    # All batches are under way before the first result is waited for.
    results = jax.device_get([metric_fn(params, batch) for batch in batches])
    weight = math.fsum(float(weight) for _, weight in results)
    if weight == 0:
        raise ValueError("batches must have a total weight above 0, got 0")
    names = results[0][0]
    return {name: math.fsum(float(sums[name]) for sums, _ in results) / weight for name in names}


def progress_bar(*, initial: int, total: int, show: bool | None) -> tqdm:
    """Returns a bar of steps with rate and remaining time, on stderr.

    ``show=None`` shows it only where stderr is a terminal.
    """
    disable = None if show is None else not show
    return tqdm(initial=initial, total=total, disable=disable, unit="step", dynamic_ncols=True)


def _unwritable(path: str | os.PathLike[str], error: OSError) -> MetricsError:
    return MetricsError(f"The metrics file {path} cannot be written: {reason(error)}.")


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
