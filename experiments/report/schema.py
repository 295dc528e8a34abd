"""Schema of the files of runs and comparisons, as far as the page needs them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from experiments.config import ModelConfig, Published
from experiments.errors import UserError
from experiments.runs.directory import read_json
from experiments.typing import Metrics


class Record(BaseModel, frozen=True):
    """Part of a file; other keys are ignored."""

    model_config = ConfigDict(allow_inf_nan=False)


class Config(Record, frozen=True):
    """Part of `config.yaml`, possibly of an earlier version."""

    task: str
    seed: int
    model: ModelConfig
    published: list[Published] = []

    @field_validator("model", mode="before")
    @classmethod
    def drop_unknown(cls, value: Any) -> Any:
        """Drops keys of earlier or later versions."""
        if not isinstance(value, Mapping):
            return value
        return {key: value[key] for key in value if key in ModelConfig.model_fields}


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
    vmapped_seeds: list[int] = []
    earlier_sessions: list[dict[str, Any]] = []


class Spread(Record, frozen=True):
    mean: float
    deviation: float | None
    values: list[float]


class ComparedModel(Record, frozen=True):
    model: str
    parameters: int
    seeds: list[int]
    test: dict[str, Spread]


class Comparison(Provenance, frozen=True):
    """Part of `compare.json`."""

    name: str
    models: list[ComparedModel] = Field(min_length=1)
    baselines: dict[str, Metrics]
    published: list[Published] = []

    @model_validator(mode="after")
    def check_metrics(self) -> Self:
        """Rejects models with different test metrics."""
        if any(model.test.keys() != self.models[0].test.keys() for model in self.models):
            raise ValueError("the models have different test metrics.")
        return self


Kind = TypeVar("Kind", bound=Record)


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Reads and validates a JSON file.

    Raises:
        UserError: the file is absent, is not a JSON object, or has another schema.
    """
    return check_record(kind, read_json(path), path)


def check_record(kind: type[Kind], values: Mapping[str, Any], path: Path) -> Kind:
    """Validates the values of a file.

    Raises:
        UserError: the values have another schema.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is corrupted: {key + ': ' if key else ''}{first['msg']}."
        ) from None
