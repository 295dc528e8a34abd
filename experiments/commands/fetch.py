"""The command `fetch NAME`: downloads and verifies data sets, and shows their licences."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments import command_help
from experiments.datasets import registry
from experiments.datasets.download import download
from experiments.errors import UserError
from experiments.suggest import did_you_mean

ALL = "all"


@dataclass(frozen=True)
class Options:
    """Downloads data sets into the data directory and verifies their SHA-256.

    An interrupted download is resumed. Without a name, lists the data sets and their licences.
    """

    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="[NAME ...]",
            help=f"{', '.join(registry.DATA_SETS)}, or {ALL}.",
            help_behavior_hint="",
        ),
    ] = ()
    data_dir: Path = field(default_factory=registry.default_data_dir)
    """Directory of data files; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        UserError: an unknown name, and as `download`.
    """
    more = f"Data sets:\n{_list()}"
    options = command_help.parse(Options, arguments, "fetch", "jsb etth1", more=more)
    if not options.names:
        print(_list())
    for data_set in _selected_sets(options.names):
        print(f"{data_set.name}: {_terms(data_set)}", flush=True)
        try:
            for file in data_set.files:
                print(f"{download(file, options.data_dir)} is verified.", flush=True)
        except KeyboardInterrupt:
            command = registry.fetch_command(data_set.name, options.data_dir)
            print(f"`{command}` resumes it.", file=sys.stderr)
            raise
    return 0


def _selected_sets(names: tuple[str, ...]) -> list[registry.DataSet]:
    for name in names:
        if name not in (*registry.DATA_SETS, ALL):
            raise UserError(
                f"There is no data set {name}.{did_you_mean(name, registry.DATA_SETS)} "
                f"The data sets are {', '.join(registry.DATA_SETS)}."
            )
    return [registry.DATA_SETS[name] for name in (registry.DATA_SETS if ALL in names else names)]


def _list() -> str:
    width = max(map(len, registry.DATA_SETS))
    return "\n".join(
        f"  {name:{width}}  {_terms(data_set)}" for name, data_set in registry.DATA_SETS.items()
    )


def _terms(data_set: registry.DataSet) -> str:
    if data_set.licence is None:
        return f"{data_set.home} states no licence"
    return f"{data_set.licence}, as {data_set.home} states"
