"""The tasks by name. A task is one module with its data, model and metrics, and a config.

The name of a task from outside is the dotted path of its module.
"""

import importlib
from typing import TYPE_CHECKING, Protocol, cast

from experiments.config import ExperimentConfig
from experiments.tasks import outside
from experiments.tasks.configs import CONFIGS
from experiments.tasks.outside import is_outside as is_outside

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.task import Build

TASKS = tuple(CONFIGS)


class TaskModule(Protocol):
    """Interface of a module in this folder, and of one from outside."""

    Config: type[ExperimentConfig]
    build: "Build"


def config_class(name: str) -> type[ExperimentConfig]:
    """Returns the config class of a task in `TASKS`, or of one from outside, which is imported.

    Raises:
        UserError: the module of the latter cannot be imported, or is no task.
    """
    return outside.load(name).Config if is_outside(name) else CONFIGS[name]


def load_task(name: str) -> TaskModule:
    """Imports the module of a task in `TASKS`, or of one from outside.

    Other tasks' dependencies are not imported.

    Raises:
        UserError: as :func:`config_class`.
    """
    if is_outside(name):
        return outside.load(name)
    return cast(TaskModule, importlib.import_module(f"experiments.tasks.{name}"))
