"""The command line: dispatches commands, prints user errors as one message, sets exit codes."""

import importlib
import logging
import sys
from typing import NamedTuple

from experiments.errors import UserError
from experiments.suggest import did_you_mean


class Command(NamedTuple):
    """A command: the module with its `main(arguments) -> exit code`, and a line of help."""

    module: str
    help: str


COMMANDS = {
    "train": Command(
        "experiments.commands.train",
        "trains the experiment of a YAML file and reports it next to its baselines",
    ),
    "compare": Command(
        "experiments.commands.compare",
        "trains it with several cells and seeds, and compares their metrics",
    ),
    "sweep": Command(
        "experiments.commands.sweep",
        "searches for better hyper-parameters in the search space of the YAML file",
    ),
    "gradients": Command(
        "experiments.commands.gradients",
        "measures how far a loss reaches back in time, on runs of compare",
    ),
    "export": Command(
        "experiments.commands.export",
        "writes a trained model as ONNX, StableHLO, safetensors or for PyTorch",
    ),
    "report": Command(
        "experiments.report",
        "writes one HTML page with all runs in a folder",
    ),
    "bench": Command(
        "experiments.bench",
        "times our GRU and other libraries' and writes a table and a plot",
    ),
    "interop": Command(
        "experiments.interop",
        "converts weights to and from other libraries and writes the differences",
    ),
    "fetch": Command(
        "experiments.commands.fetch",
        "downloads a data set of a task",
    ),
}


def main(arguments: list[str]) -> int:
    """Runs one command.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 a user error, 130 Ctrl-C, 143 SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if arguments in (["-h"], ["--help"]):
        print(_help())
        return 0
    try:
        if not arguments:
            raise UserError(f"The command is missing.\n\n{_help()}")
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(
                f"There is no command {name}.{did_you_mean(name, COMMANDS)} "
                f"The commands are {', '.join(COMMANDS)}."
            )
        return importlib.import_module(COMMANDS[name].module).main(rest)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 130


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return f"""usage: python -m experiments COMMAND ...

{lines}

`python -m experiments COMMAND --help` lists the options of a command."""
