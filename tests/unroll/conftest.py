"""What tests of calls of `unroll` share."""

import pytest

from gru_jax._unroll import dispatch


@pytest.fixture
def taken(monkeypatch):
    """The implementations that calls of unroll have taken."""
    seen = []
    real = dispatch.select_implementation

    def selecting(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr("gru_jax._unroll.api.select_implementation", selecting)
    return seen
