"""The directory of one run: which files it holds, and whether a run may use it."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from experiments.config import DESCRIPTIVE, ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs.config_loading import differences, read_yaml

Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run by name."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def meta(self) -> Path:
        return self.path / "meta.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def is_finished(self) -> bool:
        """Whether the run's final figures are there."""
        return self.summary.exists()

    def create(self, config: ExperimentConfig) -> None:
        """Makes the directory, unless it is there, and writes the config.

        Raises:
            UserError: if it cannot be written.
        """
        try:
            self.plots.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, yaml.safe_dump(config.model_dump(), sort_keys=False))
        except OSError as error:
            raise UserError(
                f"The run directory {self.path} cannot be written: {error.strerror}."
            ) from None


def new_run_directory(name: str, seed: int) -> RunDirectory:
    """Returns runs/NAME/<time>-s<seed>, which is not there yet."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / name / f"{now}-s{seed}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return RunDirectory(path)


def chosen_run_directory(path: Path, config: ExperimentConfig, resume: Resume) -> RunDirectory:
    """Returns the directory the user named, if a run of this config may begin or go on there.

    What only describes the experiment may differ from what the directory holds.

    Raises:
        UserError: if it is a file, holds another experiment or anything that is not a run, or
            `resume` forbids what is found.
    """
    run = RunDirectory(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"The run directory {path} is a file.")
    if not run.config.exists():
        if resume == "must":
            raise UserError(f"There is nothing to resume in {path}: it holds no config.yaml.")
        if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
            raise UserError(f"{path} holds files, but no run: there is no config.yaml among them.")
        return run
    theirs = {key: value for key, value in read_yaml(run.config).items() if key not in DESCRIPTIVE}
    changed = list(differences(config.model_dump(exclude={*DESCRIPTIVE}), theirs))
    if changed:
        raise UserError(
            f"{path} holds another experiment. It differs in {'; '.join(changed)}. "
            "Give these options as they were, or another --run-dir."
        )
    if resume == "never":
        raise UserError(
            f"{path} holds a run of this experiment already, and --resume is never. "
            "Give another --run-dir, or --resume auto to go on with it."
        )
    return run


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: if the file is absent or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(value, Mapping):
        raise UserError(f"{path} does not hold a JSON object.")
    return dict(value)
