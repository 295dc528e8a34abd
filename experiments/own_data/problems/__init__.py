"""Kinds of problems by name. A problem is one module with `build` and `restore`."""

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    # Imports JAX.
    from experiments.own_data.model import Problem


def load_problem(name: str) -> "Problem":
    """Imports the module of a problem; other problems' dependencies are not imported."""
    module = f"experiments.own_data.problems.{name.replace('-', '_')}"
    return cast("Problem", importlib.import_module(module))
