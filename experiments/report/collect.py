"""Finds the runs and comparisons below a folder, and reads their files."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
from gru_jax.cells import CELLS

SKIPPED = ("checkpoints", "plots", "tensorboard")
PNG = b"\x89PNG\r\n\x1a\n"
Value = TypeVar("Value")


@dataclass(kw_only=True)
class Attachments:
    """Plots and texts by name, and an error message for each corrupted file."""

    images: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def try_read(self, read: Callable[[], Value], otherwise: Value) -> Value:
        """Returns `read()`; if that fails, records the error and returns `otherwise`."""
        try:
            return read()
        except (UserError, training.TrainingError) as error:
            self.errors += str(error).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.errors.append(f"A file cannot be read: {error}.")
        return otherwise

    def add(self, directory: Path, texts: str, without: str = "") -> None:
        """Reads a directory's plots, and the texts with this suffix."""
        for path in sorted(directory.glob("*.png")):
            if image := self.try_read(lambda path=path: _read_png(path), b""):
                self.images[path.name] = image
        for path in sorted(directory.glob(f"*{texts}")):
            if path.name != without:
                text = self.try_read(lambda path=path: path.read_text(encoding="utf-8"), "")
                self.texts[path.name] = text


@dataclass(kw_only=True)
class RunRecord(Attachments):
    """A run, finished or not.

    Attributes:
        path: its directory.
        config: text of the config file.
        values: values of the config file.
        published: published metrics, from the config.
        rows: rows of metrics.jsonl.
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
        """Name of the task; empty if unknown."""
        return str(self.values.get("task") or (self.summary and self.summary.task) or "")

    @property
    def seed(self) -> str:
        """The seed as a text; empty if unknown."""
        return str(self.summary.seed if self.summary else self.values.get("seed", ""))

    @property
    def status(self) -> str:
        if self.errors:
            return "corrupted"
        return self.summary.status.replace("_", " ") if self.summary else "unfinished"

    @property
    def last_step(self) -> int | None:
        """The latest logged step."""
        return max((row["step"] for row in self.rows), default=None)

    @property
    def seconds(self) -> float | None:
        """Duration; that of the training only for a resumed or unfinished run."""
        if self.meta and self.meta.wall_seconds:
            return self.meta.wall_seconds
        seconds = self.rows[-1].get("seconds") if self.rows else None
        return seconds if isinstance(seconds, int | float) else None


@dataclass(kw_only=True)
class ComparisonRecord(Attachments):
    """A comparison: the output of `compare`, and of `gradients` in the same directory."""

    path: Path
    result: Comparison | None = None


@dataclass
class Experiment:
    """The runs of one task in one directory, and their comparison, if there is one."""

    path: Path
    name: str
    task: str
    comparison: ComparisonRecord | None
    runs: list[RunRecord]

    def all_errors(self) -> Iterator[str]:
        """Yields an error message for each corrupted file."""
        if self.comparison:
            yield from self.comparison.errors
        for run in self.runs:
            yield from run.errors


def collect(folder: Path) -> list[Experiment]:
    """Returns all experiments below a folder, sorted by path."""
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
        key = _experiment_path(run.path, set(comparisons)), run.task
        grouped.setdefault(key, []).append(run)
    for path in comparisons.keys() - {path for path, _ in grouped}:
        grouped[path, ""] = []
    experiments = []
    for (path, task), members in sorted(grouped.items(), key=lambda item: item[0]):
        comparison = comparisons.get(path)
        name = task if path == folder and task else path.name or str(path)
        if comparison and comparison.result:
            name = comparison.result.name
        experiments.append(Experiment(path, name, task, comparison, sorted(members, key=_order)))
    return experiments


def _experiment_path(path: Path, comparisons: set[Path]) -> Path:
    """Returns the directory of the experiment of a run."""
    for parent in path.parents:
        if parent in comparisons:
            return parent
    # A run of an unfinished comparison.
    is_compared = path.parent.name in CELLS and re.fullmatch(r"s\d+", path.name)
    return path.parent.parent if is_compared else path.parent


def _order(run: RunRecord) -> list[str | int]:
    """Returns the sort key for natural order of paths."""
    parts = re.split(r"([0-9]+)", str(run.path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _read_run(run: RunDirectory) -> RunRecord:
    record = RunRecord(path=run.path)
    record.values = record.try_read(lambda: read_yaml(run.config), {})
    if record.values:
        record.config = run.config.read_text(encoding="utf-8")
        config = record.try_read(lambda: check_record(Config, record.values, run.config), None)
        if config is not None:
            record.model, record.published = model_name(config.model), config.published
    if run.is_finished():
        record.summary = record.try_read(lambda: read_record(Summary, run.summary), None)
    if record.summary:
        record.model = record.summary.model
    if run.meta.exists():
        record.meta = record.try_read(lambda: read_record(Meta, run.meta), None)
    if run.metrics.exists():
        record.rows = record.try_read(lambda: training.read_metrics(run.metrics), [])
    record.add(run.plots, ".txt")
    return record


def _read_comparison(path: Path) -> ComparisonRecord:
    record = ComparisonRecord(path=path)
    record.result = record.try_read(lambda: read_record(Comparison, path / "compare.json"), None)
    record.add(path, ".md", without="compare.md")
    return record


def _read_png(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(PNG):
        raise UserError(f"{path} is not a PNG file.")
    return content
