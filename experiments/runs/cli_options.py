"""Command-line options of commands with a config: the config's fields, and the command's own."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, Generic, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from experiments.config import METADATA_FIELDS, ExperimentConfig, FrozenModel
from experiments.errors import UserError
from experiments.runs.config_loading import check, find_config, load_config
from experiments.runs.memory import check_memory

Config = TypeVar("Config", bound=ExperimentConfig)
Options = TypeVar("Options")


@dataclasses.dataclass(frozen=True)
class Parsed(Generic[Options]):
    """A parsed command line.

    Attributes:
        path: the config file.
        options: the options, with the config as the field `config`.
        command: the user's command line.
    """

    path: Path
    options: Options
    command: str


def parse_options(
    kind: type[Options], arguments: list[str], program: str, usage: str
) -> Parsed[Options] | None:
    """Reads a config file and overrides its values with the options after it.

    Args:
        kind: a generic dataclass of options, with the config as its field `config`.
        arguments: the config file and the options.
        program: the command line before them.
        usage: a text for --help without a config file.

    Returns:
        The options; None if the usage was printed.

    Raises:
        UserError: there is no config file, a value is invalid, in the file or among the options, or
            the sizes are beyond the machine's memory.
        SystemExit: by tyro, after --help (0) or an option that it cannot parse (2).
    """
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"The config file is missing; it comes first.\n\n{usage}")
    path = find_config(arguments[0])
    from_file = load_config(path)
    of_config: Any = kind
    options = tyro.cli(
        of_config[type(from_file)],
        default=of_config(config=from_file),
        args=arguments[1:],
        prog=f"{program} {path}",
        description=(type(from_file).__doc__ or "").strip(),
        registry=_PLAIN_VALUES,
    )
    config = check(type(from_file), options.config, where="Command line", options=True)
    check_memory(config)
    options = dataclasses.replace(options, config=config)
    return Parsed(path, options, f"{program} {shlex.join(arguments)}")


_PLAIN_VALUES = ConstructorRegistry()


@_PLAIN_VALUES.struct_rule
def _plain_values(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Makes tyro return a config's values as a dict, which `check` validates like a file's.

    The task is no option, because it decides which options there are; metadata fields are none
    either.
    """
    if not (isinstance(info.type, type) and issubclass(info.type, FrozenModel)):
        return None
    fixed = {"task", *METADATA_FIELDS}
    fields = {name: field for name, field in info.type.model_fields.items() if name not in fixed}
    annotations: dict[str, Any] = {name: field.annotation for name, field in fields.items()}
    specs = [
        StructFieldSpec(
            name=name,
            type=annotations[name],
            default=getattr(info.default, name),
            helptext=field.description,
        )
        for name, field in fields.items()
    ]
    fixed_values = {}
    if isinstance(info.default, ExperimentConfig):
        fixed_values = info.default.model_dump(include=fixed)

    def values(**options: Any) -> dict[str, Any]:
        return {**fixed_values, **options}

    return StructConstructorSpec(instantiate=values, fields=tuple(specs))
