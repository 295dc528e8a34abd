"""Finds the runs and comparisons below a folder, and reads their files."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from experiments.config import METADATA_FIELDS, Published
from experiments.errors import UserError
from experiments.files import read_bytes
from experiments.report.schema import Comparison, Config
from experiments.runs.config_loading import flat, read_yaml
from experiments.runs.directory import RunDirectory
from experiments.runs.records import (
    META_ADVICE,
    SUMMARY_ADVICE,
    Meta,
    Summary,
    check_record,
    read_record,
)
from experiments.tables import model_name
from gru_jax import training
from gru_jax.cells import CELLS

SKIPPED = ("checkpoints", "mlflow", "plots", "profile", "tensorboard", "wandb")
PNG = b"\x89PNG\r\n\x1a\n"
# In bytes.
LARGEST_PLOT = 20 * 2**20
LARGEST_TEXT = 2**20
LARGEST_METRICS = 256 * 2**20
Value = TypeVar("Value")


@dataclass(kw_only=True)
class Attachments:
    """Plots and texts by name, and a message for each file that is corrupted or left out.

    Attributes:
        root: the folder of the page. A file that a link leads to outside of it is left out.
    """

    root: Path
    images: dict[str, bytes] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def try_read(self, read: Callable[[], Value], otherwise: Value) -> Value:
        """Returns `read()`; if that fails, records the error and returns `otherwise`."""
        try:
            return read()
        except (UserError, training.TrainingError) as error:
            self.errors += str(error).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            self.errors.append(f"A file cannot be read: {error}.")
        return otherwise

    def is_readable(self, path: Path, largest: int) -> bool:
        """Whether a path is a regular file below the root, of at most this size.

        If it exists and is not, that is noted.
        """
        reason = _reason_to_leave_out(path, self.root, largest)
        if reason:
            self.left_out.append(f"{path} is left out: {reason}.")
        return reason == ""

    def add(self, directory: Path, texts: str, without: str = "") -> None:
        """Reads a directory's plots, and the texts with this suffix."""
        for path in sorted(directory.glob("*.png")):
            if not self.is_readable(path, LARGEST_PLOT):
                continue
            if image := self.try_read(lambda path=path: _read_png(path), b""):
                self.images[path.name] = image
        for path in sorted(directory.glob(f"*{texts}")):
            if path.name != without and self.is_readable(path, LARGEST_TEXT):
                self.texts[path.name] = self.try_read(lambda path=path: _read_text(path), "")


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
    """The runs of one task in one directory, and their comparison, if there is one.

    Directories with runs of equal settings are one experiment.
    """

    path: Path
    name: str
    task: str
    comparison: ComparisonRecord | None
    runs: list[RunRecord]

    def messages(self) -> Iterator[str]:
        """Yields a message for each file that is corrupted or left out."""
        for record in [self.comparison, *self.runs]:
            if record:
                yield from record.errors
                yield from record.left_out


def collect(folder: Path) -> tuple[list[Experiment], list[str]]:
    """Reads what is below a folder.

    Returns:
        All experiments, sorted by path, and a message for each directory that is left out because
        it is a link.
    """
    runs, comparisons, left_out = [], {}, []
    for directory, subdirectories, files in os.walk(folder):
        subdirectories[:] = sorted(name for name in subdirectories if name not in SKIPPED)
        path = Path(directory)
        links = [path / name for name in subdirectories if (path / name).is_symlink()]
        left_out += [f"{link} is left out: it is a link to a directory." for link in links]
        if "config.yaml" in files:
            runs.append(_read_run(RunDirectory(path), folder))
        if "compare.json" in files:
            comparisons[path] = _read_comparison(path, folder)
    grouped: dict[tuple[Path, str], list[RunRecord]] = {}
    for run in runs:
        key = _experiment_path(run.path, set(comparisons)), run.task
        grouped.setdefault(key, []).append(run)
    grouped = _joined(grouped, set(comparisons))
    for path in comparisons.keys() - {path for path, _ in grouped}:
        grouped[path, ""] = []
    experiments = []
    for (path, task), members in sorted(grouped.items(), key=lambda item: item[0]):
        comparison = comparisons.get(path)
        name = task if path == folder and task else path.name or str(path)
        if comparison and comparison.result:
            name = comparison.result.name
        experiments.append(Experiment(path, name, task, comparison, sorted(members, key=_order)))
    return experiments, left_out


def _experiment_path(path: Path, comparisons: set[Path]) -> Path:
    """Returns the directory of the experiment of a run."""
    for parent in path.parents:
        if parent in comparisons:
            return parent
    # A run of an unfinished comparison.
    is_compared = path.parent.name in CELLS and re.fullmatch(r"s\d+", path.name)
    return path.parent.parent if is_compared else path.parent


def _joined(
    grouped: dict[tuple[Path, str], list[RunRecord]], comparisons: set[Path]
) -> dict[tuple[Path, str], list[RunRecord]]:
    """Joins directories with runs of equal settings, whatever their seeds.

    The path of joined ones is the directory above them. Comparisons stay as they are.
    """
    joined: list[tuple[str, list[RunRecord]]] = []
    result, of_settings = {}, {}
    for (path, task), members in sorted(grouped.items(), key=lambda item: item[0]):
        if path in comparisons or any(run.path.parent != path for run in members):
            result[path, task] = members
            continue
        settings = {text for run in members if (text := _settings(run))}
        group = next((of_settings[text] for text in settings if text in of_settings), None)
        if group is None:
            group = []
            joined.append((task, group))
        group += members
        of_settings |= dict.fromkeys(settings, group)
    for task, members in joined:
        path = Path(os.path.commonpath([run.path.parent for run in members]))
        result.setdefault((path, task), []).extend(members)
    return result


def _settings(run: RunRecord) -> str:
    """Returns a run's config without seed and metadata, as a text; empty if it is unknown."""
    values = {
        key: value for key, value in run.values.items() if key not in {"seed", *METADATA_FIELDS}
    }
    return repr(sorted(flat(values))) if values else ""


def _order(run: RunRecord) -> list[str | int]:
    """Returns the sort key for natural order of paths."""
    parts = re.split(r"([0-9]+)", str(run.path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _read_run(run: RunDirectory, root: Path) -> RunRecord:
    record = RunRecord(root=root, path=run.path)
    if record.is_readable(run.config, LARGEST_TEXT):
        record.values = record.try_read(lambda: read_yaml(run.config), {})
    if record.values:
        record.config = record.try_read(lambda: _read_text(run.config), "")
        config = record.try_read(lambda: check_record(Config, record.values, run.config), None)
        if config is not None:
            record.model, record.published = model_name(config.model), config.published
    if record.is_readable(run.summary, LARGEST_TEXT):
        record.summary = record.try_read(
            lambda: read_record(Summary, run.summary, SUMMARY_ADVICE), None
        )
    if record.summary:
        record.model = record.summary.model
    if record.is_readable(run.meta, LARGEST_TEXT):
        record.meta = record.try_read(lambda: read_record(Meta, run.meta, META_ADVICE), None)
    if record.is_readable(run.metrics, LARGEST_METRICS):
        record.rows = record.try_read(lambda: training.read_metrics(run.metrics), [])
    record.add(run.plots, ".txt")
    return record


def _read_comparison(path: Path, root: Path) -> ComparisonRecord:
    record = ComparisonRecord(root=root, path=path)
    if record.is_readable(path / "compare.json", LARGEST_TEXT):
        record.result = record.try_read(
            lambda: read_record(Comparison, path / "compare.json"), None
        )
    record.add(path, ".md", without="compare.md")
    return record


def _reason_to_leave_out(path: Path, root: Path, largest: int) -> str | None:
    """Returns why a file is not read; "" if it is read, and None if there is no file."""
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            return f"it is a link out of {root}"
        status = path.stat()
    except (OSError, RuntimeError):
        return "it is a broken link" if path.is_symlink() else None
    if not stat.S_ISREG(status.st_mode):
        return "it is not a regular file"
    if status.st_size > largest:
        return f"it is larger than {largest / 2**20:g} MiB"
    return ""


def _read_text(path: Path) -> str:
    return read_bytes(path, LARGEST_TEXT).decode()


def _read_png(path: Path) -> bytes:
    content = read_bytes(path, LARGEST_PLOT)
    if not content.startswith(PNG):
        raise UserError(f"{path} is not a PNG file.")
    return content
