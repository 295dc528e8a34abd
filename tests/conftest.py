"""Settings every test runs under: no silent promotion of dtypes or ranks, two CPU devices."""

import os
from importlib.metadata import version

# Nearly all of the suite's time is compilation of programs that run for a millisecond, here and in
# the processes that tests start. XLA's older code generator takes half of the newer one's time;
# later versions have the newer one alone.
fast = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if fast and version("jaxlib").startswith("0.10."):
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Drops what a module compiled: the programs of a whole run would fill gigabytes."""
    yield
    jax.clear_caches()
