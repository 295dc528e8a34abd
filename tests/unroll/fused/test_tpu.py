"""The kernels for TPU compute what the reference kernels compute, in any tiles (interpreted)."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, PartitionSpec

import gru_jax
from gru_jax._unroll import call_spec
from gru_jax._unroll.fused.reference_kernels import REFERENCE_KERNELS
from gru_jax._unroll.fused.tpu import tiling
from gru_jax._unroll.fused.tpu.kernels import make_kernels
from gru_jax._unroll.fused.tpu.tiling import TpuSpec
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, Problem
from tests.shapes import ProblemSize
from tests.slow import slow
from tests.unroll.fused.kernel_harness import unroll_by, with_float32_carry
from tests.unroll.test_implementations import SHAPE, sample_controls

# With two cores, a batch that fills more than one register is split in two.
SPEC = TpuSpec(vmem_mib=16, cores=2)


@pytest.fixture(scope="module")
def unroll():
    """In blocks of three steps, which do not divide seven."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "BLOCK_STEPS", (3,))
        with unroll_by(make_kernels(SPEC, interpret=True)) as unroll:
            yield unroll


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@jax.enable_x64(True)
def test_all_controls(unroll, reverse):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    assert_close(
        problem.run("float64", unroll, **controls), problem.expected(**controls), "float64"
    )


@pytest.mark.parametrize("control", ["mask", "starts"])
@jax.enable_x64(True)
def test_each_flag_alone(unroll, control):
    shape = SHAPE._replace(time=2)
    problem = Problem.sample(GRU_AFTER, shape)
    controls = {control: sample_controls(shape)[control]}
    assert_close(
        problem.run("float64", unroll, **controls), problem.expected(**controls), "float64"
    )


@pytest.mark.parametrize(
    ("time", "batch", "checkpoint"),
    [(1, (1,), None), (2, (17,), "step"), slow(3, (), None), slow(7, (2, 2), "chunk")],
    ids=str,
)
@jax.enable_x64(True)
def test_odd_sizes(unroll, time, batch, checkpoint):
    problem = Problem.sample(GRU_AFTER, ProblemSize(time, batch, 2, 3))
    outcome = problem.run("float64", unroll, checkpoint=checkpoint)
    assert_close(outcome, problem.expected(), "float64")


@pytest.mark.slow
def test_bfloat16(unroll):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True).rounded("bfloat16")
    controls = sample_controls(SHAPE)
    outcome = with_float32_carry(problem, unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "bfloat16")


def test_float32_multiplied_in_bfloat16():
    """Only the matmuls' operands are rounded: not inputs, state or outputs."""
    problem = Problem.sample(GRU_AFTER, SHAPE).rounded("bfloat16")
    with unroll_by(make_kernels(SPEC, interpret=True), matmul_dtype=jnp.bfloat16) as unroll:
        outcome = problem.run("float32", unroll)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(outcome)} == {"float32"}
    assert_close(outcome, problem.expected(), "bfloat16")


@pytest.mark.parametrize("over", ["sequences", slow("weights")])
@jax.enable_x64(True)
def test_vmap(over, unroll):
    problem = Problem.sample(GRU_AFTER, ProblemSize(2, (3,), 2, 3))
    cell, xs, state = problem.inputs("float64")
    cells = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), cell)

    def gradients(implementation):
        def loss(cell, xs, state):
            last, ys = gru_jax.unroll(cell, xs, state, implementation=implementation)
            return (last**2).sum() + (ys**3).sum()

        gradient = jax.grad(loss, (0, 1, 2))
        if over == "sequences":
            return jax.jit(jax.vmap(gradient, (None, 1, 0)))(cell, xs, state)
        return jax.jit(jax.vmap(gradient, (0, None, None)))(cells, xs, state)

    assert_close(gradients("fused"), gradients("scan"), "float64")


@pytest.mark.slow
def test_shard_map(unroll):
    """Without ``check_vma``, which JAX's interpreter of kernels does not pass."""
    problem = Problem.sample(GRU_AFTER, ProblemSize(2, (4,), 2, 3))
    cell, xs, _ = problem.inputs("float32")
    starts = jnp.ones(xs.shape[:2], bool)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = PartitionSpec(None, "data")

    def ys(cell, xs, starts):
        return unroll(cell, xs, starts=starts)[1]

    def gradient(ys):
        return jax.jit(jax.grad(lambda cell: (ys(cell, xs, starts) ** 2).sum()))(cell)

    specs = (PartitionSpec(), batch, batch)
    sharded = jax.shard_map(ys, mesh=mesh, in_specs=specs, out_specs=batch, check_vma=False)
    assert_close(gradient(sharded), gradient(ys), "float32")


@pytest.mark.slow
def test_on_a_simulated_tpu():
    """Uninitialised memory, and memory beyond an array's end, is NaN."""
    simulated = pltpu.InterpretParams(
        uninitialized_memory="nan", out_of_bounds_reads="uninitialized"
    )
    problem = Problem.sample(GRU_AFTER, ProblemSize(5, (17,), 2, 128), learned_h0=True)
    controls = {"mask": problem.xs[..., 0] < 0.5, "starts": problem.xs[..., 1] < -0.5}
    outcomes = []
    for kernels in (make_kernels(SPEC, interpret=simulated), REFERENCE_KERNELS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiling, "BLOCK_STEPS", (3,))
            # The simulation has effects, which a program for several devices does not.
            patch.setattr(call_spec, "count_devices", lambda device: 1)
            with unroll_by(kernels) as unroll:
                outcomes.append(problem.run("float32", unroll, reverse=True, **controls))
    assert_close(*outcomes, "float32")
