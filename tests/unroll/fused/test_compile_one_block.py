"""The one-block kernels are compiled for every architecture on a machine without a GPU."""

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
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

DUMP = {"MOSAIC_GPU_DUMP_PTX": "1", "MOSAIC_GPU_DUMP_PTXAS": "1"}
"""What makes Mosaic print PTX, and the report of ptxas."""

SYNCHRONISATION = r"mbarrier\.(?!init)[a-z_]+|bar\.sync|fence\.(?!mbarrier_init)|membar"
"""Instructions of PTX, but for those that make a barrier."""


@pytest.mark.parametrize("architecture", compile_one_block.ARCHITECTURES)
def test_registers_suffice_and_a_step_has_one_barrier(architecture):
    done = subprocess.run(
        [sys.executable, "-m", "tests.unroll.fused.compile_one_block", architecture],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **DUMP},
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
        found = Counter(re.findall(SYNCHRONISATION, report))
        # Before the loop over steps.
        assert found.pop("bar.sync") <= 2, name
        # Ampere tests in a loop what Hopper waits for.
        wait = "mbarrier.test_wait" if architecture.startswith("sm_8") else "mbarrier.try_wait"
        assert found == {"mbarrier.arrive": 1, wait: 1}, name
        order = re.findall(r"\b(?:st(?=\.shared|matrix)|ldmatrix|mbarrier\.(?!init)\w+)", report)
        assert [key for key, _ in itertools.groupby(order)] == [
            "st",
            "mbarrier.arrive",
            wait,
            "ldmatrix",
        ], name
