"""The one-block kernels are compiled for every architecture on a machine without a GPU."""

import math
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

MAX_REGISTERS = 240
"""Of a thread. A block has 65,536 registers and up to 256 threads, and a thread has 255."""


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
    forms = (compile_one_block.HIDDEN, compile_one_block.TILES, compile_one_block.FORMS)
    assert len(by_name) == 3 * math.prod(map(len, forms))
    for name, report in by_name.items():
        (spills,) = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
        assert spills == ("0", "0"), f"{name} spills {spills}"
        (registers,) = re.findall(r"Used (\d+) registers", report)
        assert int(registers) <= MAX_REGISTERS, f"{name} takes {registers} registers"
