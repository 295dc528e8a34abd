"""Tasks from outside: modules of the user, which a config names by their dotted path."""

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.suggest import did_you_mean

LONGEST_PATH = 200
PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
BASE = "gru_jax_experiments.ExperimentConfig"


def is_outside(task: str) -> bool:
    """Whether the name of a task is the dotted path of a module."""
    return len(task) <= LONGEST_PATH and PATH.fullmatch(task) is not None


def load(task: str) -> Any:
    """Imports the module of a task, from the working directory or an installed package.

    Raises:
        UserError: there is no such module, it cannot be imported, or it lacks a `Config` or a
            `build`, or has others than described in `experiments.tasks.TaskModule`.
    """
    module = _import(task)
    for name, what in (("Config", f"a subclass of {BASE}"), ("build", "a function")):
        if not hasattr(module, name):
            defined = [word for word in vars(module) if not word.startswith("_")]
            raise UserError(
                f"{module.__file__} has no {name}. The module of a task has {name}, {what}."
                f"{did_you_mean(name, defined)}"
            )
    config, build = module.Config, module.build
    if not (isinstance(config, type) and issubclass(config, ExperimentConfig)):
        shown = f"the class {config.__name__}" if isinstance(config, type) else repr(config)
        raise UserError(
            f"{module.__file__}: Config is {shown:.200}, but should be a subclass of {BASE}."
        )
    _check_build(build, str(module.__file__))
    return module


def place(error: BaseException) -> str:
    """Returns file, line and message of an error, where the user's code raised it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outside = [
        frame
        for frame in frames
        if not frame.filename.startswith(("<", ours)) and frame.filename != importlib.__file__
    ]
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    where = f"{outside[-1].filename}, line {outside[-1].lineno}: " if outside else ""
    return f"{where}{kind}{reason}"


def _import(task: str) -> ModuleType:
    # The command `gru-jax` has the directory of its script in place of it.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(task)
    except ModuleNotFoundError as error:
        name = error.name or ""
        if task != name and not task.startswith(f"{name}."):
            raise UserError(f"{task} cannot be imported: {place(error)}.") from error
        parent, _, _ = name.rpartition(".")
        folders = getattr(sys.modules[parent], "__path__", []) if parent else [os.getcwd()]
        where = parent or f"the working directory {os.getcwd()} and the installed packages"
        raise UserError(
            f"There is no module {name} in {where}.{did_you_mean(name, _modules(folders, parent))}"
        ) from None
    except (Exception, SystemExit) as error:
        raise UserError(f"{task} cannot be imported: {place(error)}.") from error


def _modules(folders: Iterable[str], package: str) -> list[str]:
    """Returns the modules in folders; a folder without `__init__.py` is a package, too."""
    names = {path.stem for folder in folders for path in Path(folder).glob("[!_.]*")}
    return sorted(f"{package}.{name}" if package else name for name in names)


def _check_build(build: Any, where: str) -> None:
    takes = "build takes (config, data_dir) and returns a gru_jax_experiments.Task"
    if not callable(build):
        raise UserError(f"{where}: build is {build!r:.200}, but should be a function: {takes}.")
    signature = inspect.signature(build)
    try:
        signature.bind(None, None)
    except TypeError:
        raise UserError(f"{where}: build takes {signature}, but {takes}.") from None
