"""Tunings that force a way to run a cell, whatever the sizes."""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import pytest

import gru_jax
from gru_jax._unroll.xla import tuning as tuning_module
from gru_jax._unroll.xla.tuning import Tuning

NEVER = 2**40


def override(tuning: Tuning, **thresholds: dict[str, Any]) -> Tuning:
    """The tuning with other thresholds, ``chunk={"elements": 1}`` and the like."""
    changed = {
        name: dataclasses.replace(getattr(tuning, name), **values)
        for name, values in thresholds.items()
    }
    return dataclasses.replace(tuning, **changed)


# Tiny steps would save the projected inputs.
SAVING_PREACTIVATIONS = override(
    Tuning(), residuals={"recompute_max_step": 0, "recompute_max_units": 0}
)


def force_chunks(steps: int, *, project_in_loop: bool = False, sequences: int = 2) -> Tuning:
    """A backward pass in chunks of ``steps`` steps, inputs projected in the loop or before it."""
    return override(
        SAVING_PREACTIVATIONS,
        chunk={"elements": 1, "min_rows": steps * sequences},
        projection={
            "min_batch": 1 if project_in_loop else NEVER,
            "min_elements": 0,
            "max_features": NEVER,
        },
    )


def force_time_blocks(steps: int, *, sequences: int = 2, units: int = 3) -> Tuning:
    """A GRU's forward pass in blocks of ``steps`` steps."""
    return override(
        Tuning(),
        projection={"min_batch": 1, "max_features": 0, "max_params": 0},
        time_block={"threshold": 0, "elements": steps * sequences * 3 * units, "min_steps": 1},
    )


@contextlib.contextmanager
def unroll_with(implementation, tuning=SAVING_PREACTIVATIONS):
    """``unroll`` by one implementation; the tuning is read when a call is traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_module, "CPU_TUNING", tuning)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation=implementation)
    jax.clear_caches()
