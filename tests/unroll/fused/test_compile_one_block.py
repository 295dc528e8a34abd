"""The one-block kernels are compiled for every architecture on a machine without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gru_jax._unroll.fused import one_block
from tests.unroll.fused import compile_for_gpu, compile_one_block

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu_compiler,
    pytest.mark.skipif(
        compile_for_gpu.missing_compiler() is not None,
        reason=str(compile_for_gpu.missing_compiler()),
    ),
    pytest.mark.skipif(
        jax.__version_info__ < one_block.MIN_JAX, reason="needs plgpu.mma of jax 0.11"
    ),
]

ROOT = Path(__file__).parents[3]

MAX_SPILLED = {64: 0, 128: 0, 192: 16}
"""Bytes of a thread by H. At 192 a block has 384 threads, which have 168 registers each."""


@pytest.mark.parametrize("architecture", compile_one_block.ARCHITECTURES)
def test_registers_suffice(architecture):
    done = subprocess.run(
        [sys.executable, "-m", "tests.unroll.fused.compile_one_block", architecture],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "MOSAIC_GPU_DUMP_PTXAS": "1"},
        timeout=600,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    kernels = re.split(r"^== (.*)$", output, flags=re.M)[1:]
    by_name = dict(zip(kernels[::2], kernels[1::2], strict=True))
    assert len(by_name) == 3 * len(compile_one_block.FORMS)
    for name, report in by_name.items():
        (spilled,) = re.findall(r"stack frame, (\d+) bytes spill stores", report)
        hidden = re.search(r"H=(\d+)", name)
        assert hidden is not None
        assert int(spilled) <= MAX_SPILLED[int(hidden[1])], f"{name} spills {spilled} bytes"
