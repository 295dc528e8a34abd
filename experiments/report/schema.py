"""What the page needs of the files that runs and comparisons leave behind, checked."""

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

Figures = dict[str, float]


class Record(BaseModel, frozen=True):
    """Part of a file; keys that the page has no use for are passed over."""

    model_config = ConfigDict(allow_inf_nan=False)


class Config(Record, frozen=True):
    """The part of `config.yaml`, which may be that of an earlier version."""

    task: str
    seed: int
    model: ModelConfig
    published: list[Published] = []

    @field_validator("model", mode="before")
    @classmethod
    def drop_unknown(cls, value: Any) -> Any:
        """Passes over what models had, or will have."""
        if not isinstance(value, Mapping):
            return value
        return {key: value[key] for key in value if key in ModelConfig.model_fields}


class Summary(Record, frozen=True):
    """The part of `summary.json`."""

    task: str
    seed: int
    model: str
    parameters: int
    status: Literal["finished", "early_stopped"]
    steps: int
    best_step: int
    test: Figures
    baselines: dict[str, Figures]


class Provenance(Record, frozen=True):
    """The part of `compare.json` and `meta.json` that says what a result was made with."""

    command: str
    git_revision: str
    git_changed_files: list[str] = []
    versions: dict[str, str]
    device: dict[str, Any]


class Meta(Provenance, frozen=True):
    """The part of `meta.json`."""

    started: str | None = None
    wall_seconds: float | None = None
    side_by_side: list[int] = []
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
    """The part of `compare.json`."""

    name: str
    models: list[ComparedModel] = Field(min_length=1)
    baselines: dict[str, Figures]
    published: list[Published] = []

    @model_validator(mode="after")
    def check_figures(self) -> Self:
        """Refuses models with different test figures, which make no table."""
        if any(model.test.keys() != self.models[0].test.keys() for model in self.models):
            raise ValueError("the models have different test figures.")
        return self


Kind = TypeVar("Kind", bound=Record)


def read_record(kind: type[Kind], path: Path) -> Kind:
    """Reads a JSON file.

    Raises:
        UserError: if it is absent, is no JSON object, or does not say what it should.
    """
    return check_record(kind, read_json(path), path)


def check_record(kind: type[Kind], values: Mapping[str, Any], path: Path) -> Kind:
    """Takes from a file's values what is needed.

    Raises:
        UserError: if they do not say what they should.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise UserError(f"{path} is damaged: {key + ': ' if key else ''}{fault['msg']}.") from None
