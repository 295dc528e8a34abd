"""The command as a report shows it."""

import shlex

DIRECTORIES = {"--output": None, "--data-dir": None, "--revisions": "OLD_CHECKOUT"}
"""Options whose values are directories, and what a report shows in place of those."""


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
    return shlex.join(["python", "-m", "experiments", "bench", *shown])
