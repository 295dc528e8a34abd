"""Schema of configs and comparisons, as far as the page needs them."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from experiments.config import ModelConfig, Published
from experiments.runs.records import Provenance, Record
from experiments.typing import Metrics


class Config(Record, frozen=True):
    """Part of `config.yaml`, possibly of an earlier version."""

    task: str
    seed: int
    model: ModelConfig
    published: list[Published] = Field(default=[])

    @field_validator("model", mode="before")
    @classmethod
    def drop_unknown(cls, value: Any) -> Any:
        """Drops keys of earlier or later versions."""
        if not isinstance(value, Mapping):
            return value
        return {key: value[key] for key in value if key in ModelConfig.model_fields}


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
    published: list[Published] = Field(default=[])

    @model_validator(mode="after")
    def check_metrics(self) -> Self:
        """Rejects models with different test metrics."""
        if any(model.test.keys() != self.models[0].test.keys() for model in self.models):
            raise ValueError("the models have different test metrics.")
        return self
