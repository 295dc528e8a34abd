"""What the benchmark commands share: sizes among their options, and the command in a report."""

import shlex

from experiments.bench.shapes import ProblemSize
from experiments.errors import UserError
from experiments.program import PROGRAM

DIRECTORIES = {"--output": None, "--data-dir": None, "--revisions": "OLD_CHECKOUT"}
"""Options whose values are directories, and what a report shows in place of those."""


def parse_size(option: str, text: str) -> ProblemSize:
    """Parses the value of an option. Raises UserError if it is no problem size."""
    try:
        return ProblemSize.parse(text)
    except ValueError as error:
        raise UserError(f"--{option}: {error}.") from None


def invocation(arguments: list[str]) -> str:
    """The command without its directories, which do not affect the measurements."""
    shown, rest = [], iter(arguments)
    for argument in rest:
        option, *values = argument.split("=", 1)
        if option not in DIRECTORIES:
            shown.append(argument)
            continue
        if not values:
            next(rest, None)
        placeholder = DIRECTORIES[option]
        if placeholder is not None:
            shown += [option, placeholder]
    return f"{PROGRAM} {shlex.join(['bench', *shown])}"
