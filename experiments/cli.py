"""The command line: finds the command, prints a user's errors as one message, sets exit codes."""

import importlib
import logging
import sys

from experiments.errors import UserError
from experiments.suggest import did_you_mean

COMMANDS = {
    "train": "trains what a YAML file describes and reports it beside its baselines",
    "compare": "trains it with several cells and seeds, and puts their figures side by side",
    "sweep": "looks for better values within the ranges that it gives",
    "gradients": "measures, on what compare has trained, how far a loss reaches back in time",
    "export": "writes a trained model as ONNX, StableHLO, safetensors or for PyTorch",
    "report": "writes one HTML page over a folder of runs",
    "bench": "times our GRU beside other libraries' and writes a table and a plot",
    "interop": "converts weights to and from other libraries' and writes the differences",
    "fetch": "downloads a data set that a task reads",
}

PACKAGES = ("report", "bench", "interop")
"""Commands that are packages of their own; the others are modules of `experiments.commands`."""


def main(arguments: list[str]) -> int:
    """Runs one command.

    Each command is the function `main(arguments) -> exit code` of the module of its name.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 the user's error, 130 Ctrl-C, 143 SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if arguments in (["-h"], ["--help"]):
        print(_help())
        return 0
    try:
        if not arguments:
            raise UserError(f"The command is missing.\n\n{_help()}")
        command, *rest = arguments
        if command not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise UserError(
                f"There is no command {command}.{did_you_mean(command, COMMANDS)} "
                f"The commands are {known}."
            )
        return importlib.import_module(_module_of(command)).main(rest)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 130


def _module_of(command: str) -> str:
    return f"experiments.{command}" if command in PACKAGES else f"experiments.commands.{command}"


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {does}" for name, does in COMMANDS.items())
    return f"""usage: python -m experiments COMMAND ...

{commands}

`python -m experiments COMMAND --help` lists what a command takes."""
