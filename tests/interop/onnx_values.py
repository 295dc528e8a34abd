"""Values of ONNX models."""

import jax.numpy as jnp
import numpy as np


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6, strict=True)


def joined(states):
    """States by layer and direction as one array, as a model has them."""
    return jnp.stack([state for layer in states for state in layer])
