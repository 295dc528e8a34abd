"""Kinds of files by name. A kind is one module with `inspect` and `read`."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from experiments.errors import UserError
from experiments.extras import install_hint
from experiments.own_data.config import DataConfig, Problem
from experiments.own_data.dataset import Dataset


@dataclass(frozen=True)
class Proposal:
    """What `init` writes as a config.

    Attributes:
        problem: the problem.
        data: the values of `DataConfig` that are not defaults.
        settings: other keys of the config by dotted name, such as horizon or training.steps.
        reasons: by the same dotted names (of `data`, with data. before), why.
    """

    problem: Problem
    data: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)


def chosen_data(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of `DataConfig` that a user chose."""
    return {
        key.removeprefix("data."): value for key, value in chosen.items() if key.startswith("data.")
    }


def chosen_settings(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the other keys that a user chose, but for the problem."""
    return {
        key: value
        for key, value in chosen.items()
        if key != "problem" and not key.startswith("data.")
    }


class Source(Protocol):
    """Interface of a module in this folder."""

    def inspect(self, path: str, chosen: Mapping[str, Any], /) -> Proposal:
        """Looks at a file and proposes a config for it.

        Args:
            path: as in `DataConfig`.
            chosen: what the user chose by options, by dotted name; it is in the proposal.

        Raises:
            UserError: the file cannot be used; names column and row.
        """
        ...

    def read(self, config: DataConfig, problem: Problem, /, *, targets: bool = True) -> Dataset:
        """Reads a file.

        Args:
            config: its description; a run's `predict` sets the path of new rows.
            problem: what it is read for.
            targets: whether it must have what is to be predicted.

        Raises:
            UserError: the file does not fit; names file, column and row.
        """
        ...


def load_source(format: str) -> Source:
    """Imports the module of a kind of file; other kinds' dependencies are not imported.

    Raises:
        UserError: a package that it needs is not installed.
    """
    try:
        return cast(Source, importlib.import_module(f"experiments.own_data.sources.{format}"))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "experiments":
            raise
        raise UserError(
            f"Data of the format {format} need {package}, which is not installed. "
            f"{install_hint('data')}"
        ) from None
