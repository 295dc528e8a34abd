"""Ways to run a cell that a test chooses, whatever the sizes."""

import contextlib
import functools

import jax
import pytest

import gru_jax
from gru_jax._unroll.xla import run as xla
from gru_jax._unroll.xla.schedule import Tuning

NEVER = 2**40
WHOLE = Tuning(keep_step=0, keep_units=0)


def in_blocks_of(steps: int, *, inside: bool = False, sequences: int = 2) -> Tuning:
    """Blocks of ``steps`` steps, inputs projected in the loop or ahead of it, whatever the size."""
    return Tuning(
        block_elements=1,
        block_rows=steps * sequences,
        inside_batch=1 if inside else NEVER,
        inside_elements=0,
        inside_features=NEVER,
        keep_step=0,
        keep_units=0,
    )


def in_windows_of(steps: int, *, sequences: int = 2, units: int = 3) -> Tuning:
    """A GRU's forward pass ``steps`` steps at a time."""
    return Tuning(
        inside_batch=1,
        inside_features=0,
        inside_parameters=0,
        window_elements=0,
        ahead_elements=steps * sequences * 3 * units,
        ahead_steps=1,
    )


@contextlib.contextmanager
def run_by(implementation, tuning=WHOLE):
    """Unroll by one implementation; compiled anew, for the tuning is read when it is traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla, "TUNING", tuning)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation=implementation)
    jax.clear_caches()
