"""Command-line options of commands with a config: the config's fields, and the command's own."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from experiments.config import METADATA_FIELDS, ExperimentConfig, FrozenModel
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.runs.config_loading import check, load_config
from experiments.runs.directory import Resume
from experiments.runs.memory import check_memory

Config = TypeVar("Config", bound=ExperimentConfig)
Options = TypeVar("Options")
PROGRAM = "python -m experiments train"
USAGE = f"""usage: {PROGRAM} CONFIG [--seed 3 --model.hidden-size 64 ...]

Trains the experiment of the YAML file CONFIG, such as configs/digits.yaml, and reports its test
metrics next to baselines. `{PROGRAM} CONFIG --help` lists the fields of that config."""


@dataclasses.dataclass(frozen=True)
class TrainOptions(Generic[Config]):
    """Options of `train`; the fields of `config` are options without a prefix."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    run_dir: Path | None = None
    """Directory of the run, new or to resume; the default is runs/NAME/TIME-sSEED."""
    resume: Resume = "auto"
    """Whether to resume the run in --run-dir: if there is one, never, or there must be one."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also writes the metrics as TensorBoard event files, to tensorboard/ of the run."""


def config_file(arguments: list[str], usage: str) -> Path | None:
    """Returns the config file, the first argument; prints the usage and returns None for --help.

    Raises:
        UserError: there is no config file.
    """
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"The config file is missing; it comes first.\n\n{usage}")
    return Path(arguments[0])


def parse_train_options(path: Path, arguments: list[str]) -> TrainOptions[ExperimentConfig]:
    """Reads the config file of `train` and overrides its values with the options after it.

    Raises:
        UserError, SystemExit: as :func:`parse_options`.
    """
    return parse_options(TrainOptions, path, arguments, PROGRAM)


def parse_options(kind: type[Options], path: Path, arguments: list[str], program: str) -> Options:
    """Reads a config file and overrides its values with the options after it.

    Args:
        kind: a generic dataclass of options, with the config as its field `config`.
        path: the config file.
        arguments: the arguments after it.
        program: the command line before it.

    Raises:
        UserError: an invalid value, in the file or among the options, or sizes beyond the
            machine's memory.
        SystemExit: by tyro, after --help (0) or an option that it cannot parse (2).
    """
    from_file = load_config(path)
    of_config: Any = kind
    options = tyro.cli(
        of_config[type(from_file)],
        default=of_config(config=from_file),
        args=arguments,
        prog=f"{program} {path}",
        description=(type(from_file).__doc__ or "").strip(),
        registry=_PLAIN_VALUES,
    )
    config = check(type(from_file), options.config, where="Command line", options=True)
    check_memory(config)
    return dataclasses.replace(options, config=config)


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
