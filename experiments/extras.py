"""How to install what a command needs."""

import importlib.util

from experiments.errors import UserError


def require(package: str, extra: str, *, needed_by: str) -> None:
    """Raises UserError if a package is not installed; it names the extra that installs it."""
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"{needed_by} needs {package}, which is not installed. {install_hint(extra)}"
        )


def install_hint(extra: str) -> str:
    """Returns the commands that install an extra, from a clone and from an index."""
    return (
        f"In a clone: pip install -e '.[{extra}]'. From an index: pip install 'gru-jax[{extra}]'."
    )
