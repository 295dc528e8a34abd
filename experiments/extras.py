"""How to install what a command needs."""


def install_hint(extra: str) -> str:
    """Returns the commands that install an extra, from a clone and from an index."""
    return (
        f"In a clone: pip install -e '.[{extra}]'. From an index: pip install 'gru-jax[{extra}]'."
    )
