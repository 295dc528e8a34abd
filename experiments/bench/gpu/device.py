"""The GPU that the benchmark runs on."""

import os

import jax

from experiments.errors import UserError


def require_gpu() -> None:
    """Raises UserError if JAX sees no GPU.

    Also stops JAX from preallocating the GPU's memory, which torch, cuDNN and the checks need in
    their own processes.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device = jax.devices()[0]
    if device.platform != "gpu":
        raise UserError(
            f"bench --gpu needs a GPU, and JAX sees a {device.device_kind} here. "
            'On a machine with one: pip install "jax[cuda13]".'
        )
