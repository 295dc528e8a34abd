"""Means over the values of a config's field, such as the speaker that is held out."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from experiments.config import METADATA_FIELDS, ExperimentConfig
from experiments.errors import UserError
from experiments.suggest import did_you_mean

Records = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class AveragedValues:
    """A field of a config, and the values over which metrics are averaged."""

    field: str
    values: list[str]


def averaged_values(config: ExperimentConfig, option: str | None) -> AveragedValues | None:
    """Returns the meaning of --average-over, FIELD or FIELD=VALUE,VALUE; None without it.

    Raises:
        UserError: the config has no such field with named values, or the field no such value.
    """
    if option is None:
        return None
    field, _, listed = option.partition("=")
    fields = {
        name: values
        for name, info in type(config).model_fields.items()
        if name not in {"task", *METADATA_FIELDS} and (values := list(_names(info.annotation)))
    }
    if field not in fields:
        raise UserError(
            f"--average-over is {field!r}, but should be a field with named values, which are: "
            f"{', '.join(fields) or 'none'}.{did_you_mean(field, fields)}"
        )
    values = list(dict.fromkeys(listed.split(","))) if listed else fields[field]
    for value in values:
        if value not in fields[field]:
            raise UserError(
                f"--average-over has {value!r}, but the values of {field} are "
                f"{', '.join(fields[field])}.{did_you_mean(value, fields[field])}"
            )
    return AveragedValues(field, values)


def _names(annotation: Any) -> Iterator[str]:
    """Yields the texts of the Literals in a type."""
    if get_origin(annotation) is Literal:
        yield from (value for value in get_args(annotation) if isinstance(value, str))
    else:
        for part in get_args(annotation):
            yield from _names(part)


def average(by_value: Sequence[Records]) -> dict[str, list[dict[str, Any]]]:
    """Returns summaries or metadata by cell and seed, with the means of their metrics and times.

    Args:
        by_value: for each value of the field, by cell, the content of `summary.json` or
            `meta.json` for each seed.
    """
    return {
        cell: [
            {
                **records[0],
                **{
                    key: _mean([record[key] for record in records])
                    for key in ("test", "baselines", "wall_seconds")
                    if all(key in record for record in records)
                },
            }
            for records in zip(*(of_value[cell] for of_value in by_value), strict=True)
        ]
        for cell in by_value[0]
    }


def _mean(values: list[Any]) -> Any:
    """Returns the mean of equally nested numbers."""
    if isinstance(values[0], Mapping):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    return statistics.fmean(values)
