"""Schema of the files that a run leaves, and how to read them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from experiments.errors import UserError
from experiments.files import read_bytes
from experiments.runs.directory import RunDirectory
from experiments.typing import Metrics

# Python's objects need up to 30 times as much memory as the JSON.
LARGEST = 2 * 2**20
# A SentencePiece model, or means and deviations of many sequences.
LARGEST_DATA = 64 * 2**20
SUMMARY_ADVICE = (
    "Delete it and call the command that made it again: "
    "it is written again, from the checkpoints of the run."
)
DATA_ADVICE = "The run cannot be used without it: train again."
META_ADVICE = "Delete it: only the record of command, versions, device and duration is lost."


class Record(BaseModel, frozen=True):
    """Part of a file; other keys are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Summary(Record, frozen=True):
    """Part of `summary.json`."""

    task: str
    seed: int
    model: str
    parameters: int
    status: Literal["finished", "early_stopped"]
    steps: int
    best_step: int
    test: Metrics
    baselines: dict[str, Metrics]


class Provenance(Record, frozen=True):
    """Provenance of a result, part of `compare.json` and `meta.json`."""

    command: str
    git_revision: str
    git_changed_files: list[str] = []
    versions: dict[str, str]
    device: dict[str, Any]


class Meta(Provenance, frozen=True):
    """Part of `meta.json`."""

    started: str | None = None
    wall_seconds: float | None = None
    sequences_per_second: float | None = None
    vmapped_seeds: list[int] = []
    earlier_sessions: list[dict[str, Any]] = []


Kind = TypeVar("Kind", bound=Record)


def read_summary(run: RunDirectory) -> dict[str, Any]:
    """Returns the final metrics of a run.

    Raises:
        UserError: the file is absent or corrupted.
    """
    values = read_json(run.summary, SUMMARY_ADVICE)
    check_record(Summary, values, run.summary, SUMMARY_ADVICE)
    return values


def read_meta(run: RunDirectory) -> dict[str, Any]:
    """Returns the metadata of a run; empty if there are none.

    Raises:
        UserError: the file is corrupted.
    """
    if not run.meta.exists():
        return {}
    values = read_json(run.meta, META_ADVICE)
    check_record(Meta, values, run.meta, META_ADVICE)
    return values


def read_record(kind: type[Kind], path: Path, advice: str = "") -> Kind:
    """Reads and validates a JSON file.

    Args:
        kind: the schema.
        path: the file.
        advice: what to do if it is corrupted, the end of the message.

    Raises:
        UserError: the file is absent, is not a JSON object, or has another schema.
    """
    return check_record(kind, read_json(path, advice), path, advice)


def read_data_record(run: RunDirectory) -> dict[str, Any]:
    """Returns what was decided about a run's data, `data.json`.

    Raises:
        UserError: the file is absent or is not a JSON object.
    """
    return read_json(run.data, DATA_ADVICE, LARGEST_DATA)


def read_json(path: Path, advice: str = "", largest: int = LARGEST) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path, advice: as for :func:`read_record`.
        largest: the largest size of the file in bytes.

    Raises:
        UserError: the file is absent, or is not a JSON object.
    """
    content = read_bytes(path, largest)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _corrupted(path, "it is nested too deeply", advice) from None
    except ValueError as error:
        raise _corrupted(path, f"it is not JSON: {error}", advice) from None
    if not isinstance(value, dict):
        raise _corrupted(path, "it does not hold a JSON object", advice)
    return value


def check_record(kind: type[Kind], values: Mapping[str, Any], path: Path, advice: str = "") -> Kind:
    """Validates the values of a file; the parameters are those of :func:`read_record`.

    Raises:
        UserError: the values have another schema.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _corrupted(path, f"{key + ': ' if key else ''}{first['msg']}", advice) from None


def _corrupted(path: Path, reason: str, advice: str) -> UserError:
    return UserError(f"{path} is corrupted: {reason.rstrip('.')}. {advice}".rstrip())
