"""The directory of one run: its files, and whether a run may be started or resumed there."""

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments import yaml_files
from experiments.config import METADATA_FIELDS, ExperimentConfig
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs import bucket
from experiments.runs.config_loading import MAX_ERRORS, differences, read_yaml

Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def meta(self) -> Path:
        return self.path / "meta.json"

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoints(self) -> Path | str:
        """Directory of the checkpoints: of a copy the one in the bucket, as a URL."""
        return bucket.original(self.path / "checkpoints")

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def profile(self) -> Path:
        return self.path / "profile"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def tracker(self, name: str) -> Path:
        """Directory of the files of an experiment tracker."""
        return self.path / name

    def is_finished(self) -> bool:
        """Whether the run has its final metrics."""
        return self.summary.exists()

    def create(self, config: ExperimentConfig) -> None:
        """Makes the directory, unless it exists, and writes the config.

        Raises:
            UserError: it cannot be written.
        """
        try:
            # The config first: with any other file, a directory without one is no run.
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, yaml_files.dump(config.model_dump()))
            self.plots.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The run directory {self.path} cannot be written: {error.strerror}."
            ) from None


def new_run_directory(name: str, seed: int) -> RunDirectory:
    """Returns runs/NAME/<time>-s<seed>, a path that does not exist."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / name / f"{now}-s{seed}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return RunDirectory(path)


def chosen_run_directory(path: Path, config: ExperimentConfig, resume: Resume) -> RunDirectory:
    """Returns the user's directory, if a run of this config may be started or resumed there.

    Metadata fields may differ from those of the existing run.

    Raises:
        UserError: the path is a file, holds another experiment or files that are no run, or
            `resume` does not allow its state.
    """
    run = RunDirectory(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"The run directory {path} is a file.")
    if not run.config.exists():
        if resume == "must":
            raise UserError(f"There is nothing to resume in {path}: it holds no config.yaml.")
        if path.exists() and any(not file.name.startswith(".") for file in path.iterdir()):
            raise UserError(_not_a_run(path))
        return run
    theirs = {
        key: value for key, value in read_yaml(run.config).items() if key not in METADATA_FIELDS
    }
    changed = list(differences(config.model_dump(exclude={*METADATA_FIELDS}), theirs))
    if changed:
        shown = changed[:MAX_ERRORS]
        if len(changed) > MAX_ERRORS:
            shown.append(f"and {len(changed) - MAX_ERRORS:,} more")
        raise UserError(
            f"{path} holds another experiment. It differs in {'; '.join(shown)}. "
            "Give these options as they were, or another --run-dir."
        )
    if resume == "never":
        raise UserError(
            f"{path} holds a run of this experiment already, and --resume is never. "
            "Give another --run-dir, or --resume auto to resume it."
        )
    return run


def _not_a_run(path: Path) -> str:
    """Returns the message for a directory with other files than those of a run."""
    runs = [config.parent for config in path.glob("*/config.yaml")]
    if not runs:
        return f"{path} holds files, but no run: there is no config.yaml among them."
    latest = max(runs, key=lambda run: (run / "config.yaml").stat().st_mtime)
    return (
        f"{path} is not a run, but a folder of runs. Its latest run is {latest}. To resume that "
        f"one, give --run-dir {latest}; for a new run, give the path of a directory that does not "
        "exist or is empty."
    )
