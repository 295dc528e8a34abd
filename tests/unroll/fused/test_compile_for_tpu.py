"""The kernels for TPU are compiled for it on a machine without one."""

import importlib.util
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.tpu_compiler,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason='no libtpu, the compiler for TPU: pip install ".[tpu-compiler]"',
    ),
]


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_gradients_compile(topology):
    command = [sys.executable, "-m", "tests.unroll.fused.compile_for_tpu", topology]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 5
