"""The command `gru-jax`, and what a task of your own imports.

A wheel holds the packages `experiments` and `configs` of the repository inside this package,
because a package called `experiments` in site-packages could be anybody's. In a clone they are next
to it. So tasks of your own import from here, which works in both. Configs and errors are imported
without JAX.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.batches import shuffled_batches as shuffled_batches
    from experiments.config import ExperimentConfig as ExperimentConfig
    from experiments.config import UnidirectionalConfig as UnidirectionalConfig
    from experiments.errors import UserError as UserError
    from experiments.export_spec import PrePost as PrePost
    from experiments.export_spec import make_export_spec as make_export_spec
    from experiments.models.recurrent import Network as Network
    from experiments.models.recurrent import build_network as build_network
    from experiments.models.state_gradients import LastStepLoss as LastStepLoss
    from experiments.task import Task as Task

HERE = Path(__file__).parent

_MODULES = {
    "ExperimentConfig": "config",
    "LastStepLoss": "models.state_gradients",
    "Network": "models.recurrent",
    "PrePost": "export_spec",
    "Task": "task",
    "UnidirectionalConfig": "config",
    "UserError": "errors",
    "build_network": "models.recurrent",
    "make_export_spec": "export_spec",
    "shuffled_batches": "batches",
}


def main() -> int:
    """Runs the command line of `experiments`; returns its exit code."""
    _find_experiments()
    from experiments.__main__ import main

    return main()


def _find_experiments() -> None:
    root = str(HERE if (HERE / "experiments").is_dir() else HERE.parent)
    if root not in sys.path:
        sys.path.insert(0, root)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _find_experiments()
    return getattr(importlib.import_module(f"experiments.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
