"""Runs the command line: `python -m experiments`."""

import sys

from experiments import status, stop


def main() -> int:
    """Runs the command line of this process; returns the exit code."""
    stop.watch()
    status.turn_on()
    # Imported here, because a signal that comes while it is imported is noted, too.
    from experiments.cli import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
