"""The command `fetch NAME`: downloads data sets, says their licences and checks them."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from experiments.datasets import registry as data
from experiments.datasets.download import download
from experiments.errors import UserError
from experiments.suggest import did_you_mean

ALL = "all"


@dataclass(frozen=True)
class _Arguments:
    names: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="[NAME ...]",
            help=f"{', '.join(data.DATA_SETS)}, or {ALL}.",
            help_behavior_hint="",
        ),
    ] = ()
    data_dir: Path = field(default_factory=data.default_data_dir)
    """Directory they go to; the default is $GRU_JAX_DATA, then ~/.cache/gru_jax."""


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit code.

    Raises:
        UserError: for a name that is none, and as `download` does.
    """
    chosen = tyro.cli(
        _Arguments,
        args=arguments,
        prog="python -m experiments fetch",
        description="Downloads data sets, checks their SHA-256 and puts them where the tasks "
        "look. A download that broke off goes on from there. Without a name, it lists the data "
        "sets and their licences:\n\n" + _list(),
    )
    if not chosen.names:
        print(_list())
    for data_set in _chosen_sets(chosen.names):
        print(f"{data_set.name}: {_terms(data_set)}", flush=True)
        try:
            for file in data_set.files:
                print(f"{download(file, chosen.data_dir)} is there and verified.", flush=True)
        except KeyboardInterrupt:
            command = data.fetch_command(data_set.name, chosen.data_dir)
            print(f"What came is kept; `{command}` goes on from there.", file=sys.stderr)
            raise
    return 0


def _chosen_sets(names: tuple[str, ...]) -> list[data.DataSet]:
    for name in names:
        if name not in (*data.DATA_SETS, ALL):
            raise UserError(
                f"There is no data set {name}.{did_you_mean(name, data.DATA_SETS)} "
                f"The data sets are {', '.join(data.DATA_SETS)}."
            )
    return [data.DATA_SETS[name] for name in (data.DATA_SETS if ALL in names else names)]


def _list() -> str:
    width = max(map(len, data.DATA_SETS))
    return "\n".join(
        f"  {name:{width}}  {_terms(data_set)}" for name, data_set in data.DATA_SETS.items()
    )


def _terms(data_set: data.DataSet) -> str:
    if data_set.licence is None:
        return f"{data_set.home} states no licence"
    return f"{data_set.licence}, as {data_set.home} states"
