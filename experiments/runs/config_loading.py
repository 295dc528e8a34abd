"""From a YAML file to a checked config, with messages that name the key at fault."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from experiments.config import ExperimentConfig, Frozen
from experiments.errors import UserError
from experiments.suggest import did_you_mean
from experiments.tasks import TASKS, load_task

Config = TypeVar("Config", bound=ExperimentConfig)


def load_config(path: Path) -> ExperimentConfig:
    """Reads a YAML file into the config class of the task it names.

    Raises:
        UserError: naming the file and each key that is unknown, missing or has a wrong value.
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
        UserError: if there is no such file, or it is not YAML, or not a mapping, or says a key
            twice.
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
        values: nested plain values, as YAML gives them.
        where: what the messages begin with: the file, or "Command line".
        options: whether to write keys as options, --model.hidden-size.

    Raises:
        UserError: one line for each fault.
    """
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults = [f"{where}: {_fault(config_class, fault, options)}" for fault in error.errors()]
        raise UserError("\n".join(faults)) from None


def with_values(
    config: ExperimentConfig, values: Mapping[str, Any], *, where: str
) -> ExperimentConfig:
    """The config with other values, by key as in "model.hidden_size".

    Raises:
        UserError: for a key or a value that the config does not allow; it begins with ``where``.
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


def _fault(config_class: type[Frozen], fault: Any, options: bool) -> str:
    *parents, last = [str(part) for part in fault["loc"]] or [""]
    key = ".".join([*parents, last])
    name = "--" + key.replace("_", "-") if options else key
    value = repr(fault["input"])
    if fault["type"] == "extra_forbidden":
        known = _fields(config_class, parents)
        nearest = did_you_mean(last, known) or f" Known are {', '.join(known)}."
        return f"unknown key {name} (its value is {value}).{nearest}"
    if fault["type"] == "value_error":
        return f"{name + ': ' if key else ''}{fault['ctx']['error']}"
    if fault["type"] == "invalid_key":
        return f"unknown key {key}: keys are words."
    expected = fault["msg"].removeprefix("Input should be ").replace("a valid ", "a ")
    if "dictionary" in expected:
        expected = "a mapping of keys to values"
    nearest = did_you_mean(str(fault["input"]), re.findall(r"'([^']*)'", expected))
    return f"{name} is {value}, but should be {expected}.{nearest}"


def _fields(config_class: type[Frozen], parents: list[str]) -> list[str]:
    remaining = iter(parents)
    for parent in remaining:
        annotation: Any = config_class.model_fields[parent].annotation
        if get_args(annotation):
            # A list of parts, or a mapping of keys to them: the place is a parent, too.
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
    """YAML in which a key may stand only once, and 1e-3 is a number as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
