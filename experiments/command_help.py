"""The help of a command: an example first, then what it does, in 80 columns."""

import inspect
import textwrap
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from experiments.program import PROGRAM

WIDTH = 80
Options = TypeVar("Options")


def parse(
    kind: type[Options],
    arguments: Sequence[str],
    command: str,
    example: str,
    *,
    more: str = "",
    config: Sequence[Any] = (),
    is_compact: bool = False,
) -> Options:
    """Parses the options of a command.

    Args:
        kind: a dataclass of options, whose docstring says what the command does.
        arguments: the arguments after the command.
        command: its name.
        example: arguments to show in the help.
        more: lines to show after the docstring as they are.
        config: configuration of tyro.
        is_compact: whether --help leaves out the descriptions of options, which -H shows.

    Raises:
        SystemExit: by tyro, after --help (0) or an option that it cannot parse (2).
    """
    return tyro.cli(
        kind,
        args=arguments,
        prog=f"{PROGRAM} {command}",
        description=described(f"{command} {example}", inspect.cleandoc(kind.__doc__ or ""), more),
        config=config,
        compact_help=is_compact,
    )


def described(example: str, text: str, more: str = "") -> str:
    """Returns an example and wrapped paragraphs, and more lines as they are."""
    # tyro keeps the break before a line that begins with a space.
    paragraphs = [textwrap.fill(each, WIDTH, subsequent_indent="  ") for each in text.split("\n\n")]
    parts = [f"Example: {PROGRAM} {example}".rstrip(), *paragraphs, *([more] if more else [])]
    return "\n\n".join(parts)
