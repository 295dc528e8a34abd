"""The command `gru-jax`, which runs the packages `experiments` and `configs` of the repository.

A wheel holds both inside this package, because a package called `experiments` in site-packages
could be anybody's. In a clone they are next to it.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    """Runs the command line of `experiments`; returns its exit code."""
    root = HERE if (HERE / "experiments").is_dir() else HERE.parent
    sys.path.insert(0, str(root))
    from experiments.__main__ import main

    return main()
