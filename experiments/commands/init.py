"""The command `init FILE -o CONFIG`: looks at a file and writes a commented config for it."""

import dataclasses
import os
import shlex
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments import command_help, yaml_files
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.own_data.config import DataConfig, Format, Problem, SequencesConfig
from experiments.own_data.detection import detect_format
from experiments.own_data.sizes import training_settings
from experiments.own_data.sources import Proposal, load_source
from experiments.program import PROGRAM, typed
from experiments.runs.config_loading import check

WIDTH = 96
# Options that are keys of `data`.
DATA = (
    "target",
    "inputs",
    "id",
    "time",
    "step",
    "known_ahead",
    "categories",
    "decimal",
    "separator",
    "split",
    "scale",
)
SETTINGS = ("problem", "window", "horizon", "season", "vocabulary")
# Training examples, if their number is not known.
SOME = 1000
PRINTED = ("data.path", "problem", "data.id", "data.time", "data.target", "data.split")


@dataclasses.dataclass(frozen=True)
class Options:
    """Looks at a file or folder of yours and writes a config for it.

    The config says what was decided, and why. Each option overrules a decision.
    """

    path: tyro.conf.Positional[str]
    """File, folder, pattern such as 'data/*.csv', or package.module:function."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Config to write; the default is the name of the file with .yaml."""
    force: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replaces a config that exists."""
    format: Format | None = None
    """Kind of file."""
    problem: Problem | None = None
    """What is to be predicted."""
    target: tuple[str, ...] = ()
    """Columns to predict."""
    inputs: tuple[str, ...] = ()
    """Columns to predict from."""
    id: str | None = None
    """Column that names the sequence of a row."""
    time: str | None = None
    """Column by which rows are ordered."""
    step: str | None = None
    """Time between rows, such as 1h."""
    known_ahead: tuple[str, ...] = ()
    """Columns that are known at future times, too."""
    categories: tuple[str, ...] = ()
    """Columns of numbers that name categories."""
    decimal: Literal[".", ","] | None = None
    """Decimal mark."""
    separator: str | None = None
    """Separator of a text file."""
    split: Literal["time", "sequence", "file"] | None = None
    """What divides train, validation and test."""
    scale: Literal["all", "sequence", "none"] | None = None
    """How numbers are standardised."""
    window: int | None = None
    """Steps of input."""
    horizon: int | None = None
    """Steps to forecast."""
    season: int | None = None
    """Steps of a period."""
    vocabulary: int | None = None
    """Pieces of a text."""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        UserError: the file cannot be used, an option does not fit it, or the config exists.
    """
    options = command_help.parse(Options, arguments, "init", "my.csv -o my.yaml", is_compact=True)
    output = options.output or Path(_stem(options.path)).with_suffix(".yaml")
    if os.path.lexists(output) and not options.force:
        raise UserError(
            f"{output} exists already. Give another --output, or --force to replace it."
        )
    kind = options.format or detect_format(options.path)
    chosen = chosen_values(options)
    _check_chosen(options.path, chosen)
    proposal = load_source(kind).inspect(options.path, chosen)
    values = config_values(options.path, kind, proposal)
    config = check(SequencesConfig, values, where=options.path)
    text = written(values, proposal.reasons, [PROGRAM, "init", *arguments], output)
    if check(SequencesConfig, yaml_files.parse(text), where=str(output)) != config:
        raise AssertionError(f"the config of {options.path} is not read as it was written")
    write_atomically(output, text)
    print(f"{output} is for {_in_words(config)}.")
    for key in PRINTED:
        if key in proposal.reasons:
            print(f"  {_line(key, values, proposal.reasons[key])}")
    train = ["train", str(output), "--run-dir", str(Path("runs") / output.stem)]
    print(f"\nNext:\n  {typed()} {shlex.join(train)}")
    return 0


def chosen_values(options: Options) -> dict[str, Any]:
    """Returns the values that options give, by dotted name of the config."""
    chosen: dict[str, Any] = {}
    for name in (*DATA, *SETTINGS):
        value = getattr(options, name)
        if value is None or value == ():
            continue
        key = f"data.{name}" if name in DATA else name
        chosen[key] = list(value) if isinstance(value, tuple) else value
    return chosen


def _check_chosen(path: str, chosen: Mapping[str, Any]) -> None:
    """Raises UserError for a value that no config has."""
    values: dict[str, Any] = {"task": "sequences", "problem": "forecasting", "data": {"path": path}}
    _insert(values, chosen)
    check(SequencesConfig, values, where="Command line")


def config_values(path: str, kind: Format, proposal: Proposal) -> dict[str, Any]:
    """Returns the values of a config: those of the proposal, and sizes that it does not say."""
    data = {"path": path, "format": kind, **proposal.data}
    in_order = {key: data[key] for key in DataConfig.model_fields if key in data}
    values: dict[str, Any] = {
        "task": "sequences",
        "problem": proposal.problem,
        "data": in_order,
    }
    settings = {**training_settings(SOME), **proposal.settings}
    # Those without a group first.
    _insert(values, dict(sorted(settings.items(), key=lambda item: "." in item[0])))
    return values


def _insert(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Inserts values by their dotted names."""
    for key, value in settings.items():
        *parents, last = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value


def written(
    values: Mapping[str, Any], reasons: Mapping[str, str], command: list[str], output: Path
) -> str:
    """Returns a config as YAML, with a comment above each key for which there is a reason."""
    name = output.with_suffix("").name
    head = [
        f"Written by: {shlex.join(command)}",
        f"Train:      {PROGRAM} train {output} --run-dir runs/{name}",
        f"Export:     {PROGRAM} export runs/{name} --to onnx",
        f"`{PROGRAM} train {output} --help` lists all keys.",
    ]
    lines = [line for text in head for line in _comment(text)]
    return "\n".join([*lines, "", *_keys(values, reasons, "")]) + "\n"


def _keys(values: Mapping[str, Any], reasons: Mapping[str, str], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if prefix + key in reasons:
            yield from _comment(reasons[prefix + key])
        if isinstance(value, dict):
            yield f"{key}:"
            yield from (f"  {line}" for line in _keys(value, reasons, f"{prefix}{key}."))
        else:
            yield from yaml_files.dump({key: value}).splitlines()


def _comment(text: str) -> list[str]:
    """Returns lines of a comment; texts from files may hold line breaks and control characters."""
    return textwrap.wrap(
        _printable(text),
        WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=True,
    )


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


def _line(key: str, values: Mapping[str, Any], reason: str) -> str:
    value: Any = values
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    name = "rows" if key == "data.path" else key.removeprefix("data.")
    shown = f"{', '.join(value)}: " if isinstance(value, list) else f"{value}: " if value else ""
    text = reason if key == "data.path" else f"{shown}{reason}"
    return _printable(textwrap.shorten(f"{name}: {text}", 200, placeholder=" ..."))


def _in_words(config: SequencesConfig) -> str:
    target = f" of {', '.join(config.data.target)}" if config.data.target else ""
    if config.problem == "forecasting":
        return f"forecasting{target}, {config.horizon} steps ahead from {config.window}"
    return f"{config.problem}{target}"


def _stem(path: str) -> str:
    """Returns a name for the config, without the characters of a pattern."""
    name = Path(path.rstrip("/")).name.partition(".")[0]
    return "".join(each for each in name if each.isalnum() or each in "-_") or "data"
