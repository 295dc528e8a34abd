"""The tasks by name. A task is one module: its config, data, model and metrics."""

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
    """Interface of a module in this folder."""

    Config: type[ExperimentConfig]
    build: Build


def load_task(name: str) -> TaskModule:
    """Imports the module of a task in `TASKS`; other tasks' dependencies are not imported."""
    return cast(TaskModule, importlib.import_module(f"experiments.tasks.{name}"))
