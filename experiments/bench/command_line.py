"""The command as a report shows it."""

import shlex


def invocation(arguments: list[str]) -> str:
    """The command without its directories, which say nothing about the figures."""
    shown, rest = [], iter(arguments)
    for argument in rest:
        if argument in ("--output", "--data-dir"):
            next(rest, None)
        elif not argument.startswith(("--output=", "--data-dir=")):
            shown.append(argument)
    return shlex.join(["python", "-m", "experiments", "bench", *shown])
