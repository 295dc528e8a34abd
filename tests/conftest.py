"""Settings every test runs under: no silent promotion of dtypes or ranks, two CPU devices."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

# Nearly all of the suite's time is compilation of programs that run for a millisecond, here and in
# the processes that tests start. XLA's older code generator takes half of the newer one's time;
# later versions have the newer one alone, and there programs are compiled once for all processes.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    if version("jaxlib").startswith("0.10."):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs = tempfile.mkdtemp(prefix="gru_jax-programs-")
        atexit.register(shutil.rmtree, programs, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

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
