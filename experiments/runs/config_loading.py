"""Loading and validation of configs from YAML, with error messages that name the key."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from experiments.config import ExperimentConfig, FrozenModel
from experiments.errors import UserError
from experiments.suggest import did_you_mean
from experiments.tasks import TASKS, load_task

Config = TypeVar("Config", bound=ExperimentConfig)


def load_config(path: Path) -> ExperimentConfig:
    """Reads a YAML file into the config class of its task.

    Raises:
        UserError: an unknown or missing key, or an invalid value; names the file and every key.
    """
    values = read_yaml(path)
    task = values.get("task")
    if task not in TASKS:
        raise UserError(
            f"{path}: task is {task!r}, but should be {_either(TASKS)}."
            f"{did_you_mean(str(task), TASKS)}"
            if "task" in values
            else f"{path}: the key task is missing. It names the task: {_either(TASKS)}."
        )
    return check(load_task(task).Config, values, where=str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        UserError: the file is absent, is not valid YAML, has a duplicate key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        neighbours = [str(file) for file in path.parent.glob("*.yaml")]
        raise UserError(
            f"There is no config file {path}.{did_you_mean(str(path), neighbours)}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The config file {path} cannot be read: {error}.") from None
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds {values!r}, but a config is a mapping of keys to values.")
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
        UserError: one line for each error.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        messages = [f"{where}: {_message(config_class, e, options)}" for e in error.errors()]
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
            repr(values[key]) if key in values else "absent" for values in (left, right)
        )
        if ours_shown != theirs_shown:
            yield f"{key} ({ours_shown} here, {theirs_shown} there)"


def _message(config_class: type[FrozenModel], error: Any, options: bool) -> str:
    *parents, last = [str(part) for part in error["loc"]] or [""]
    key = ".".join([*parents, last])
    name = "--" + key.replace("_", "-") if options else key
    value = repr(error["input"])
    if error["type"] == "extra_forbidden":
        known = _fields(config_class, parents)
        nearest = did_you_mean(last, known) or f" Known are {', '.join(known)}."
        return f"unknown key {name} (its value is {value}).{nearest}"
    if error["type"] == "value_error":
        return f"{name + ': ' if key else ''}{error['ctx']['error']}"
    if error["type"] == "invalid_key":
        return f"unknown key {key}: keys are words."
    expected = error["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
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


def _either(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, in which 1e-3 is a number as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate key {key}", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
