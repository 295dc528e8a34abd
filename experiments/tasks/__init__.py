"""The tasks by name. A task is one file: its config, its data, its model and its figures."""

import importlib
from typing import Protocol, cast

from experiments.config import ExperimentConfig
from experiments.task import Build

TASKS = (
    "digits",
    "adding",
    "copy",
    "music",
    "language",
    "forecasting",
    "speech",
    "translation",
    "video",
)


class TaskModule(Protocol):
    """What a file in this folder defines."""

    Config: type[ExperimentConfig]
    build: Build


def load_task(name: str) -> TaskModule:
    """Imports the module of a task in `TASKS`; the other tasks' libraries stay unloaded."""
    return cast(TaskModule, importlib.import_module(f"experiments.tasks.{name}"))
