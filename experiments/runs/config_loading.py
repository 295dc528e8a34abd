"""Loading and validation of configs from YAML, with error messages that name the key."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from experiments import yaml_files
from experiments.config import ExperimentConfig, FrozenModel
from experiments.errors import UserError
from experiments.files import read_bytes
from experiments.suggest import did_you_mean
from experiments.tasks import config_class, is_outside
from experiments.tasks.configs import CONFIGS

Config = TypeVar("Config", bound=ExperimentConfig)
CONFIG_DIR = Path(__file__).parents[2] / "configs"
"""The configs of the project: in a clone of the repository, in a wheel inside the package."""
MAX_ERRORS = 10
LONGEST_SHOWN = 200


def find_config(name: str) -> Path:
    """Returns the path of a config: a file, or one of the project's by its name, such as digits."""
    path = Path(name)
    included = CONFIG_DIR / f"{name}.yaml"
    return included if not path.is_file() and name in included_configs() else path


def included_configs() -> list[str]:
    """Returns the names of the project's configs."""
    return sorted(path.stem for path in CONFIG_DIR.glob("*.yaml"))


def load_config(path: Path) -> ExperimentConfig:
    """Reads a YAML file into the config class of its task.

    Raises:
        UserError: an unknown or missing key, or an invalid value, also of the commands sweep and
            compare; names the file and every key.
    """
    values = read_yaml(path)
    task = values.get("task")
    if not isinstance(task, str) or not (task in CONFIGS or is_outside(task)):
        raise UserError(
            f"{path}: task is {_shown(task)}, but should be {_either(CONFIGS)}, or the path of a "
            f"module of your own, such as my_package.my_task.{did_you_mean(str(task), CONFIGS)}"
            if "task" in values
            else f"{path}: the key task is missing. It names the task: {_either(CONFIGS)}."
        )
    try:
        kind = config_class(task)
    except UserError as error:
        raise UserError(f"{path}: task is {task}. {error}") from error
    config = check(kind, values, where=str(path))
    for key, of_key in config.sweep.items():
        for value in of_key.values():
            with_values(config, {key: value}, where=f"{path}: sweep")
    for cell, of_cell in config.cells.items():
        with_values(config, {"model.cell": cell, **of_cell}, where=f"{path}: cells.{cell}")
    for name, of_variant in config.variants.items():
        with_values(config, of_variant, where=f"{path}: variants.{name}")
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        UserError: the file is absent, is larger than 1 MB, is not valid YAML, has a duplicate key,
            or is not a mapping.
    """
    if not os.path.lexists(path):
        neighbours = [str(file) for file in path.parent.glob("*.yaml")]
        nearest = did_you_mean(str(path), [*neighbours, *included_configs()])
        raise UserError(f"There is no config file {path}.{nearest}")
    try:
        values = yaml_files.parse(read_bytes(path, yaml_files.LARGEST).decode())
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}.") from None
    if not isinstance(values, dict):
        raise UserError(
            f"{path} holds {_shown(values)}, but a config is a mapping of keys to values."
        )
    return values


def check(
    config_class: type[Config], values: Mapping[str, Any], *, where: str, options: bool = False
) -> Config:
    """Validates values into a config.

    Args:
        config_class: the task's config class.
        values: nested plain values, as from YAML.
        where: prefix of the messages: the file, or "Command line".
        options: whether messages write keys as options, such as --model.hidden-size.

    Raises:
        UserError: one line for each of the first ten errors, and their number.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        messages = [f"{where}: {_message(config_class, e, options)}" for e in errors[:MAX_ERRORS]]
        if len(errors) > MAX_ERRORS:
            messages.append(f"{where}: and {len(errors) - MAX_ERRORS:,} more errors.")
        raise UserError("\n".join(messages)) from None


def with_values(
    config: ExperimentConfig, values: Mapping[str, Any], *, where: str
) -> ExperimentConfig:
    """Returns the config with other values, by dotted key such as "model.hidden_size".

    Raises:
        UserError: an unknown key or an invalid value; the message begins with ``where``.
    """
    changed = config.model_dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        inner = changed
        for parent in parents:
            inner = inner.get(parent)
            if not isinstance(inner, dict):
                raise UserError(f"{where}: there is no key {key}.")
        inner[last] = value
    return check(type(config), changed, where=where)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    """Yields "key (ours here, theirs there)" for each dotted key with two different values."""
    left, right = dict(flat(ours)), dict(flat(theirs))
    for key in sorted(left.keys() | right.keys()):
        ours_shown, theirs_shown = (
            _shown(values[key]) if key in values else "absent" for values in (left, right)
        )
        if ours_shown != theirs_shown:
            yield f"{_shortened(key)} ({ours_shown} here, {theirs_shown} there)"


def _message(config_class: type[FrozenModel], error: Any, options: bool) -> str:
    *parents, last = [str(part) for part in error["loc"]] or [""]
    key = _shortened(".".join([*parents, last]))
    name = "--" + key.replace("_", "-") if options else key
    value = _shown(error["input"])
    if error["type"] == "extra_forbidden":
        known = _fields(config_class, parents)
        nearest = did_you_mean(last, known) or f" Known are {', '.join(known)}."
        return f"unknown key {name} (its value is {value}).{nearest}"
    if error["type"] == "value_error":
        return f"{name + ': ' if key else ''}{error['ctx']['error']}"
    if error["type"] == "invalid_key":
        return f"unknown key {key}: keys are words."
    expected = re.sub("a valid (?=[aeiou])", "an ", error["msg"].removeprefix("Input should be "))
    expected = expected.replace("a valid ", "a ")
    if "dictionary" in expected:
        expected = "a mapping of keys to values"
    nearest = did_you_mean(str(error["input"]), re.findall(r"'([^']*)'", expected))
    return f"{name} is {value}, but should be {expected}.{nearest}"


def _fields(config_class: type[FrozenModel], parents: list[str]) -> list[str]:
    remaining = iter(parents)
    for parent in remaining:
        annotation: Any = config_class.model_fields[parent].annotation
        if get_args(annotation):
            # For a list or mapping of models, the index or key is a parent as well.
            next(remaining)
            annotation = get_args(annotation)[-1]
        config_class = annotation
    return list(config_class.model_fields)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return _shortened(repr(value))


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
