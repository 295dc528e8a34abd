"""Finds the runs and comparisons below a folder, and reads what is there of each."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from experiments.commands.compare.command import CELLS
from experiments.config import Published
from experiments.errors import UserError
from experiments.report.schema import (
    Comparison,
    Config,
    Meta,
    Summary,
    check_record,
    read_record,
)
from experiments.runs.config_loading import read_yaml
from experiments.runs.directory import RunDirectory
from experiments.tables import model_name
from gru_jax import training

SKIPPED = ("checkpoints", "plots", "tensorboard")
PNG = b"\x89PNG\r\n\x1a\n"
Value = TypeVar("Value")


@dataclass(kw_only=True)
class Attachments:
    """Plots and texts by name, and a message for each file that is damaged."""

    images: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[[], Value], otherwise: Value) -> Value:
        """Returns what is read; otherwise, where it is damaged, notes the message."""
        try:
            return read()
        except (UserError, training.TrainingError) as error:
            self.faults += str(error).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"A file cannot be read: {error}.")
        return otherwise

    def add(self, directory: Path, texts: str, without: str = "") -> None:
        """Reads a directory's plots, and the texts whose names end so."""
        for path in sorted(directory.glob("*.png")):
            if image := self.attempt(lambda path=path: _read_png(path), b""):
                self.images[path.name] = image
        for path in sorted(directory.glob(f"*{texts}")):
            if path.name != without:
                read = self.attempt(lambda path=path: path.read_text(encoding="utf-8"), "")
                self.texts[path.name] = read


@dataclass(kw_only=True)
class RunRecord(Attachments):
    """What is known of a run, finished or not.

    Attributes:
        path: its directory.
        config: the config file's text.
        values: what it says.
        published: in the config.
        rows: of metrics, so far.
    """

    path: Path
    config: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    model: str = "unknown model"
    published: list[Published] = field(default_factory=list)
    summary: Summary | None = None
    meta: Meta | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def task(self) -> str:
        """Its name; empty where nothing says it."""
        return str(self.values.get("task") or (self.summary and self.summary.task) or "")

    @property
    def seed(self) -> str:
        """The seed as a text; empty where nothing says it."""
        return str(self.summary.seed if self.summary else self.values.get("seed", ""))

    @property
    def status(self) -> str:
        if self.faults:
            return "damaged"
        return self.summary.status.replace("_", " ") if self.summary else "unfinished"

    @property
    def last_step(self) -> int | None:
        """The newest step that was logged."""
        return max((row["step"] for row in self.rows), default=None)

    @property
    def seconds(self) -> float | None:
        """What it took; of a run that was resumed, or is not finished, the training alone."""
        if self.meta and self.meta.wall_seconds:
            return self.meta.wall_seconds
        seconds = self.rows[-1].get("seconds") if self.rows else None
        return seconds if isinstance(seconds, int | float) else None


@dataclass(kw_only=True)
class ComparisonRecord(Attachments):
    """What `compare` wrote, and `gradients` beside it."""

    path: Path
    result: Comparison | None = None


@dataclass
class Experiment:
    """The runs of one task in one directory, and the comparison made of them, if there is one."""

    path: Path
    name: str
    task: str
    comparison: ComparisonRecord | None
    runs: list[RunRecord]

    def all_faults(self) -> Iterator[str]:
        """What is damaged, a message each."""
        if self.comparison:
            yield from self.comparison.faults
        for run in self.runs:
            yield from run.faults


def collect(folder: Path) -> list[Experiment]:
    """Returns all experiments below a folder, by path."""
    runs, comparisons = [], {}
    for directory, subdirectories, files in os.walk(folder):
        subdirectories[:] = sorted(name for name in subdirectories if name not in SKIPPED)
        path = Path(directory)
        if "config.yaml" in files:
            runs.append(_read_run(RunDirectory(path)))
        if "compare.json" in files:
            comparisons[path] = _read_comparison(path)
    grouped: dict[tuple[Path, str], list[RunRecord]] = {}
    for run in runs:
        grouped.setdefault((_home(run.path, set(comparisons)), run.task), []).append(run)
    for path in comparisons.keys() - {path for path, _ in grouped}:
        grouped[path, ""] = []
    found = []
    for (path, task), members in sorted(grouped.items(), key=lambda item: item[0]):
        comparison = comparisons.get(path)
        name = task if path == folder and task else path.name or str(path)
        if comparison and comparison.result:
            name = comparison.result.name
        found.append(Experiment(path, name, task, comparison, sorted(members, key=_order)))
    return found


def _home(path: Path, comparisons: set[Path]) -> Path:
    """The directory whose runs make an experiment with this one."""
    for parent in path.parents:
        if parent in comparisons:
            return parent
    # A comparison that is not finished yet.
    is_compared = path.parent.name in CELLS and re.fullmatch(r"s\d+", path.name)
    return path.parent.parent if is_compared else path.parent


def _order(run: RunRecord) -> list[str | int]:
    """By path, in which numbers count as such."""
    parts = re.split(r"([0-9]+)", str(run.path))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _read_run(run: RunDirectory) -> RunRecord:
    record = RunRecord(path=run.path)
    record.values = record.attempt(lambda: read_yaml(run.config), {})
    if record.values:
        record.config = run.config.read_text(encoding="utf-8")
        config = record.attempt(lambda: check_record(Config, record.values, run.config), None)
        if config is not None:
            record.model, record.published = model_name(config.model), config.published
    if run.is_finished():
        record.summary = record.attempt(lambda: read_record(Summary, run.summary), None)
    if record.summary:
        record.model = record.summary.model
    if run.meta.exists():
        record.meta = record.attempt(lambda: read_record(Meta, run.meta), None)
    if run.metrics.exists():
        record.rows = record.attempt(lambda: training.read_metrics(run.metrics), [])
    record.add(run.plots, ".txt")
    return record


def _read_comparison(path: Path) -> ComparisonRecord:
    record = ComparisonRecord(path=path)
    record.result = record.attempt(lambda: read_record(Comparison, path / "compare.json"), None)
    record.add(path, ".md", without="compare.md")
    return record


def _read_png(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise UserError(f"{path} is no PNG.")
    return content
