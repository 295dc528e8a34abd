"""Command-line options of commands with a config: the config's fields, and the command's own."""

import dataclasses
import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from experiments.command_help import WIDTH, described
from experiments.config import (
    METADATA_FIELDS,
    OPTIMIZER_OPTIONS,
    ExperimentConfig,
    FrozenModel,
    OpenModel,
)
from experiments.errors import UserError
from experiments.program import PROGRAM
from experiments.runs.config_loading import check, find_config, included_configs, load_config
from experiments.runs.memory import check_memory

# An option of the optimiser, or of its schedule, which Optax may have.
OPEN_OPTION = re.compile(r"--optimizer\.(schedule[-_]options\.)?([a-z]\w*(?:-\w+)*)(?:=|$)")
OptionValue: Any = bool | int | float | str | None

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
    usage = (
        f"usage: {program} CONFIG [OPTIONS]\n\n{usage}\n\n"
        f"`{program} CONFIG --help` lists the options.\n\nConfigs:\n{_indented(included_configs())}"
    )
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"The config file is missing; it comes first.\n\n{usage}")
    path = find_config(arguments[0])
    from_file = _with_open_options(load_config(path), arguments[1:])
    of_config: Any = kind
    # --help names the fields of the config only, so that it fits a screen.
    is_short = bool({"-h", "--help"} & set(arguments))
    command = program.removeprefix(f"{PROGRAM} ")
    options = tyro.cli(
        of_config[type(from_file)],
        default=of_config(config=from_file),
        args=["--help"] if is_short else arguments[1:],
        prog=f"{program} {arguments[0]}",
        description=described(
            f"{command} {arguments[0]} --model.hidden-size 32 --seed 3",
            type(from_file).__doc__ or "",
            "Fields of the config, with their values in it; -H describes them:\n"
            + _fields_text(from_file),
        ),
        registry=_NO_FIELDS if is_short else PLAIN_VALUES,
        # Adds -H; what it shows is the whole help.
        compact_help=True,
    )
    config = check(type(from_file), options.config, where="Command line", options=True)
    check_memory(config)
    options = dataclasses.replace(options, config=config)
    return Parsed(path, options, f"{program} {shlex.join(arguments)}")


def _with_open_options(config: ExperimentConfig, arguments: list[str]) -> ExperimentConfig:
    """Returns the config with the keys of an optimiser's options that only arguments have.

    Tyro then parses them. Of an optimiser whose options are not known here, any word is one.
    """
    optimizer, name = config.optimizer, config.optimizer.name
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, is_joined, value = argument.partition("=")
        if option == "--optimizer.name":
            name = value if is_joined else following
    known = OPTIMIZER_OPTIONS.get(name)
    new: dict[str, None] = {}
    of_schedule: dict[str, None] = {}
    for argument in arguments:
        if (match := OPEN_OPTION.match(argument)) is None:
            continue
        key = match[2].replace("-", "_")
        if match[1]:
            of_schedule[key] = None
        elif key not in type(optimizer).model_fields and (known is None or key in known):
            new[key] = None
    of_schedule |= optimizer.schedule_options.options
    changed = {**new, **optimizer.options} | {
        "schedule_options": optimizer.schedule_options.model_copy(update=of_schedule)
    }
    return config.model_copy(update={"optimizer": optimizer.model_copy(update=changed)})


def _fields_text(config: FrozenModel) -> str:
    """Returns the options of a config's fields with their types and values, in lines."""
    return _indented([option.replace(" ", "\0") for option in _field_options(config, "--")])


def _indented(words: Iterable[str]) -> str:
    """Returns words in indented lines, with a space in place of each zero byte."""
    lines = textwrap.wrap(
        "  ".join(words), WIDTH - 4, break_on_hyphens=False, break_long_words=False
    )
    return "\n".join(f"  {line}" for line in lines).replace("\0", " ")


def _field_options(config: FrozenModel, prefix: str) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        option = prefix + name.replace("_", "-")
        if isinstance(value, FrozenModel):
            yield from _field_options(value, f"{option}.")
        elif name not in {"task", *METADATA_FIELDS}:
            yield f"{option} {_type_name(field.annotation)} ({value})"
    if isinstance(config, OpenModel):
        for name, value in config.options.items():
            yield f"{prefix}{name.replace('_', '-')} ({value})"


def _type_name(annotation: Any) -> str:
    """Returns a type as the help shows it: INT, {gru,lstm,rnn} or INT|None."""
    if get_origin(annotation) is Literal:
        return f"{{{','.join(map(str, get_args(annotation)))}}}"
    if get_origin(annotation) is UnionType:
        return "|".join(map(_type_name, get_args(annotation)))
    if annotation is NoneType:
        return "None"
    return "{True,False}" if annotation is bool else annotation.__name__.upper()


_NO_FIELDS = ConstructorRegistry()


@_NO_FIELDS.struct_rule
def _no_fields(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Makes tyro show no options of a config."""
    if not (isinstance(info.type, type) and issubclass(info.type, FrozenModel)):
        return None
    return StructConstructorSpec(instantiate=dict, fields=())


PLAIN_VALUES = ConstructorRegistry()


@PLAIN_VALUES.struct_rule
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
    fixed_values: dict[str, Any] = {}
    if isinstance(info.default, ExperimentConfig):
        fixed_values = info.default.model_dump(include=fixed)
    if isinstance(info.default, OpenModel):
        for name, value in info.default.options.items():
            if isinstance(value, dict):
                fixed_values[name] = value
                continue
            specs.append(
                StructFieldSpec(
                    name=name, type=OptionValue, default=value, helptext="An option of Optax."
                )
            )

    def values(**options: Any) -> dict[str, Any]:
        return {**fixed_values, **options}

    return StructConstructorSpec(instantiate=values, fields=tuple(specs))
