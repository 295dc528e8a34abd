"""Settings of all tests: no implicit promotion of dtypes or ranks, four CPU devices."""

import argparse
import atexit
import gc
import importlib.util
import itertools
import os
import shutil
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

# Where both cores are busy, threads of the linear algebra that wait for each other take much longer
# than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the time of the tests is compilation of programs that run for a millisecond, here and in
# the processes that tests start. XLA's older code generator takes half the time of the newer one.
# Later versions have the newer one only; there a cache shares programs between processes.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    # One piece of code for each program: several, compiled concurrently, cost a third more.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = flags.strip()
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
    elif "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.mkdtemp(prefix="gru_jax-programs-")
        atexit.register(shutil.rmtree, cache, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
# JAX 0.8 raises if one sets it again, as where a program of a test imports this once more.
if jax.config.jax_num_cpu_devices != 4:
    jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# JAX keeps a million objects; at the usual thresholds a fifteenth of the tests' time goes into
# looking through them for garbage.
gc.set_threshold(50_000, 20, 20)

SLOW_TESTS = frozenset(Path(__file__).with_name("slow_tests.txt").read_text().splitlines())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-part",
        type=in_parts,
        metavar="K/N",
        help="of the slow tests the K-th of N parts, and those on published data",
    )


def in_parts(text: str) -> tuple[int, int]:
    part, parts = map(int, text.split("/"))
    if not 1 <= part <= parts:
        raise argparse.ArgumentTypeError(f"{text} is no part: expected 1/N to N/N")
    return part, parts


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests that took long when they were measured (scripts/list_slow_tests.py)."""
    for item in items:
        if item.nodeid in SLOW_TESTS:
            item.add_marker(pytest.mark.slow)
    if config.option.slow_part is not None:
        part = config.option.slow_part
        config.hook.pytest_deselected(items=[i for i in items if is_in_another_part(i, *part)])
        items[:] = [item for item in items if not is_in_another_part(item, *part)]


def is_in_another_part(item: pytest.Item, part: int, parts: int) -> bool:
    if not item.get_closest_marker("slow") or "published_data" in item.fixturenames:
        return False
    # All cases of one function are in one part: what they compile is shared.
    function = item.nodeid.partition("[")[0]
    return zlib.crc32(function.encode()) % parts != part - 1


MODULES = itertools.count(1)


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Frees compiled programs, which would add up to gigabytes.

    Not after every module: they have many in common.
    """
    yield
    if next(MODULES) % 16 == 0:
        jax.clear_caches()


@pytest.fixture
def assume_packages(monkeypatch):
    """A function that pretends that packages are installed, or are not.

    Only these: what asks about others may keep the answer for the whole process.
    """
    find_spec = importlib.util.find_spec

    def assume(*packages: str, installed: bool):
        def find(name, *rest):
            return (installed or None) if name in packages else find_spec(name, *rest)

        monkeypatch.setattr(importlib.util, "find_spec", find)

    return assume


@pytest.fixture(scope="session")
def published_data() -> Path:
    """$GRU_JAX_DATA, read before any test removes it."""
    chosen = os.environ.get("GRU_JAX_DATA")
    if not chosen:
        pytest.skip("GRU_JAX_DATA, the directory of the published data files, is not set")
    return Path(chosen)


@pytest.fixture(scope="session")
def emulator():
    """An emulator of Google Cloud Storage with the bucket `bucket`."""
    with pytest.MonkeyPatch.context() as patch:
        # gcsfs reads it when it is imported, and else asks for the kind of bucket by gRPC.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        pytest.importorskip("gcsfs", reason="gcsfs is not installed")
        reason = "gcp-storage-emulator is not installed"
        emulated = pytest.importorskip("gcp_storage_emulator.server", reason=reason)
        server = emulated.create_server("localhost", 0, in_memory=True, default_bucket="bucket")
        server.start()
        url = f"http://localhost:{server._api._httpd.server_port}"
        # Of gcsfs and of TensorStore, neither of which is to look for credentials.
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("NO_GCE_CHECK", "true")
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
        patch.setenv("GCE_METADATA_HOST", "localhost:1")
        yield
        server.stop()
