"""The GPU that the benchmark runs on."""

import os

import jax

from experiments.errors import UserError


def require_gpu() -> None:
    """Raises UserError where JAX sees no GPU, of which it is to take what it needs.

    Other processes need memory of it, too: torch, cuDNN and the checks.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UserError(
            f"bench --gpu needs a GPU, and JAX sees a {device.device_kind} here. "
            'On a machine with one: pip install "jax[cuda13]".'
        )
