"""The one-block kernels are compiled for every architecture on a machine without a GPU."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.unroll.fused import compile_for_gpu, compile_one_block
from tests.unroll.fused.block_interpreter import needs_mma

pytestmark = [
    pytest.mark.slow,
    pytest.mark.gpu_compiler,
    pytest.mark.skipif(
        compile_for_gpu.missing_compiler() is not None,
        reason=str(compile_for_gpu.missing_compiler()),
    ),
    needs_mma,
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
    by_name = compile_for_gpu.reports_of("compile_one_block", architecture, **DUMP)
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
