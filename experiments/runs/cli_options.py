"""Options after a config file: its fields, and, for `train`, where to read, write and resume."""

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

from experiments.config import DESCRIPTIVE, ExperimentConfig, Frozen
from experiments.datasets.registry import default_data_dir
from experiments.errors import UserError
from experiments.runs.config_loading import check, load_config
from experiments.runs.directory import Resume

Config = TypeVar("Config", bound=ExperimentConfig)
Options = TypeVar("Options")
PROGRAM = "python -m experiments train"
USAGE = f"""usage: {PROGRAM} CONFIG [--seed 3 --model.hidden-size 64 ...]

Trains what the YAML file CONFIG describes, such as configs/digits.yaml, and reports it beside its
baselines. `{PROGRAM} CONFIG --help` lists the fields of that config."""


@dataclasses.dataclass(frozen=True)
class TrainOptions(Generic[Config]):
    """What the command line says.

    Attributes are options; those of `config` stand without a prefix.
    """

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    run_dir: Path | None = None
    """Directory of the run, new or to be resumed; the default is runs/NAME/TIME-sSEED."""
    resume: Resume = "auto"
    """Whether to go on with the run in --run-dir: if there is one, never, or it must be there."""
    data_dir: Path = dataclasses.field(default_factory=default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""
    tensorboard: tyro.conf.FlagCreatePairsOff[bool] = False
    """Writes the rows of metrics.jsonl as event files, too, into tensorboard/ of the run."""


def config_file(arguments: list[str], usage: str) -> Path | None:
    """The config file, which comes first; None where help is asked for, which is printed.

    Raises:
        UserError: if there is none.
    """
    if arguments in (["-h"], ["--help"]):
        print(usage)
        return None
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"The config file is missing; it comes first.\n\n{usage}")
    return Path(arguments[0])


def parse_train_options(path: Path, arguments: list[str]) -> TrainOptions[ExperimentConfig]:
    """Reads the config file of `train` and puts the options after it over its values.

    Raises:
        UserError, SystemExit: as :func:`parse_options`.
    """
    return parse_options(TrainOptions, path, arguments, PROGRAM)


def parse_options(kind: type[Options], path: Path, arguments: list[str], program: str) -> Options:
    """Reads a config file and puts the options after it over its values.

    Args:
        kind: a generic dataclass of options, whose field `config` is the config.
        path: the config file.
        arguments: what stands after it.
        program: what the user typed before it.

    Raises:
        UserError: a value that the config does not allow, in the file or among the options.
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
    return dataclasses.replace(options, config=config)


_PLAIN_VALUES = ConstructorRegistry()


@_PLAIN_VALUES.struct_rule
def _plain_values(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Has tyro give a config's values as a dict, so that `check` judges them as it does a file's.

    The task is left out of the options, since it decides which options there are, and so is what
    only describes an experiment.
    """
    if not (isinstance(info.type, type) and issubclass(info.type, Frozen)):
        return None
    held = {"task", *DESCRIPTIVE}
    fields = {name: field for name, field in info.type.model_fields.items() if name not in held}
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
    kept = {}
    if isinstance(info.default, ExperimentConfig):
        kept = info.default.model_dump(include=held)

    def values(**given: Any) -> dict[str, Any]:
        return {**kept, **given}

    return StructConstructorSpec(instantiate=values, fields=tuple(specs))
