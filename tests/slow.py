"""Parameters of tests that only `make test-all` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any, id: str | None = None) -> Any:
    """The values of one parametrisation, marked as slow."""
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


def slow_but(fast: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """All values of one parameter, of which those that are not in ``fast`` are slow."""
    fast = tuple(fast)
    return [value if value in fast else slow(value) for value in values]
