"""The tasks by name. A task is one module with its data, model and metrics, and a config."""

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from experiments.config import ExperimentConfig
from experiments.tasks.configs import CONFIGS

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.task import Build

TASKS = tuple(CONFIGS)


class TaskModule(Protocol):
    """Interface of a module in this folder."""

    Config: type[ExperimentConfig]
    build: "Build"


def load_task(name: str) -> TaskModule:
    """Imports the module of a task in `TASKS`; other tasks' dependencies are not imported."""
    return cast(TaskModule, importlib.import_module(f"experiments.tasks.{name}"))
