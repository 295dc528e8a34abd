"""The command line: dispatches commands, prints user errors as one message, sets exit codes."""

import importlib
import logging
import os
import re
import sys
from typing import NamedTuple

from experiments import status, stop
from experiments.errors import UserError
from experiments.extras import install_hint
from experiments.files import check_local
from experiments.program import PROGRAM
from experiments.runs import bucket
from experiments.stop import Stopped
from experiments.suggest import did_you_mean

# An option, with its value in the same argument.
OPTION = re.compile(r"(--[\w.-]+)=(.*)", re.DOTALL)
# The option whose value is a URL.
STORAGE = "--storage"
COMPLETION = "--tyro-print-completion"
# Seconds after which it is said that the config is being read.
SLOW = 0.7
# Characters of an error of another library.
LONGEST = 300


class Command(NamedTuple):
    """A command.

    Attributes:
        module: the module with its `main(arguments) -> exit code`.
        help: a line of help.
        extra: the extra that it needs.
        options: for a command that trains, the module with its `parse(arguments)`, which imports no
            JAX. Its `main` gets what that returns. It looks for signals itself.
        run: what precedes the path of a run that may be in a bucket: an option, or for a positional
            argument an empty string and the options without a value.
    """

    module: str
    help: str
    extra: str = "experiments"
    options: str | None = None
    run: tuple[str, ...] = ()


COMMANDS = {
    "init": Command(
        "experiments.commands.init",
        "looks at a file of your own and writes a config for it",
        extra="data",
    ),
    "train": Command(
        "experiments.commands.train.command",
        "trains an experiment and reports it next to its baselines",
        options="experiments.commands.train.options",
        run=("--run-dir",),
    ),
    "compare": Command(
        "experiments.commands.compare.command",
        "trains it with several cells and seeds",
        options="experiments.commands.compare.options",
        run=("--from",),
    ),
    "sweep": Command(
        "experiments.commands.sweep.command",
        "searches for better hyper-parameters",
        options="experiments.commands.sweep.options",
    ),
    "gradients": Command(
        "experiments.commands.gradients",
        "measures how far a loss reaches back in time",
        run=("",),
    ),
    "export": Command(
        "experiments.commands.export",
        "writes a trained model: ONNX, StableHLO, safetensors, PyTorch",
        run=("",),
    ),
    "predict": Command(
        "experiments.commands.predict",
        "applies a trained model to new rows of your own",
        extra="data",
        run=("", "--force", "--no-force"),
    ),
    "report": Command(
        "experiments.report",
        "writes one HTML page with all runs in a folder",
        run=("",),
    ),
    "bench": Command(
        "experiments.bench",
        "times our GRU and those of other libraries",
        extra="bench",
    ),
    "interop": Command(
        "experiments.interop",
        "converts weights to and from other libraries",
        extra="interop,experiments",
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
    try:
        if arguments in (["-h"], ["--help"]):
            print(_help())
            return 0
        if not arguments:
            raise UserError(f"The command is missing.\n\n{_help()}")
        if arguments[0] == COMPLETION:
            return _run(Command("experiments.completion", ""), COMPLETION, arguments)
        name, *rest = arguments
        if name not in COMMANDS:
            raise UserError(
                f"There is no command {name}.{did_you_mean(name, COMMANDS)} "
                f"The commands are {', '.join(COMMANDS)}."
            )
        return _run(COMMANDS[name], name, rest)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"Stopped by {stop.name_of(stopped.signal)}.", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("Stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever reads has seen enough, such as `head`. Nothing is left to flush at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    except Exception as error:
        # JAX's error has no class of its own.
        if not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
            raise
        first = (str(error).splitlines() or ["the process has no more"])[0]
        print(f"The memory is exhausted: {first[:LONGEST]}", file=sys.stderr)
        return 1


def _run(command: Command, name: str, arguments: list[str]) -> int:
    """Imports the module of a command and runs it; most import JAX, which takes seconds."""
    _check_urls(command, arguments)
    try:
        if command.options is None:
            module = importlib.import_module(command.module)
            if stop.is_watching():
                stop.unwatch()
            return module.main(arguments)
        with status.doing("Reading the config", after=SLOW):
            parsed = importlib.import_module(command.options).parse(arguments)
        if parsed is None:
            return 0
        stop.check()
        with status.doing("Loading JAX"):
            module = importlib.import_module(command.module)
        stop.check()
        return module.main(parsed)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("experiments", "gru_jax"):
            raise
        raise UserError(
            f"{name} needs {package}, which is not installed. {install_hint(command.extra)}"
        ) from None


def _check_urls(command: Command, arguments: list[str]) -> None:
    """Raises UserError for a URL as an argument, unless it is that of a run or of a database."""
    places = command.run
    for previous, argument in zip(["", *arguments], arguments, strict=False):
        match = OPTION.fullmatch(argument)
        option, value = match.groups() if match else (previous, argument)
        # The previous argument of a positional one may be the value of an option.
        option = option.replace("_", "-") if option.startswith("-") else ""
        if option in places and not value.startswith("-"):
            # Another positional argument is none of a run.
            places = ()
            if value.startswith("gs://"):
                bucket.check_url(value)
                continue
        if option != STORAGE:
            check_local(value)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return f"""usage: {PROGRAM} COMMAND ...
Example: {PROGRAM} train digits

{lines}

`{PROGRAM} COMMAND --help` lists the options of a command."""
