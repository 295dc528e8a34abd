"""Runs the command line: `python -m experiments`."""

from experiments import stop

if __name__ == "__main__":
    stop.watch()

    import sys

    from experiments.cli import main

    sys.exit(main(sys.argv[1:]))
