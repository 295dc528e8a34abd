"""The kernels for Hopper GPUs are compiled for one on a machine without a GPU."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gru_jax
from gru_jax._autodiff.step_graph import node_types
from gru_jax._unroll.call_spec import CallOptions, make_call_spec
from gru_jax._unroll.fused import run as fused
from gru_jax._unroll.fused.reference_kernels import INTERFACE
from gru_jax._unroll.fused.transforms import with_transform_rules
from gru_jax._unroll.masking import make_scan_inputs
from gru_jax._unroll.validation import SequenceControls
from tests.unroll.collectives import collectives
from tests.unroll.fake_device import fake_default_device
from tests.unroll.fused import compile_for_gpu
from tests.unroll.hlo_launch_count import launches

pytestmark = [
    pytest.mark.gpu_compiler,
    pytest.mark.skipif(
        compile_for_gpu.missing_compiler() is not None,
        reason=str(compile_for_gpu.missing_compiler()),
    ),
]

ROOT = Path(__file__).parents[3]


def test_registers_suffice():
    by_name = compile_for_gpu.reports_of("compile_for_gpu", MOSAIC_GPU_DUMP_PTXAS="1")
    assert len(by_name) == 3 * len(compile_for_gpu.SIZES)
    for name, report in by_name.items():
        (spills,) = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
        assert spills == ("0", "0"), f"{name} spills {spills}"


TIME, BATCH, INPUT, HIDDEN = 64, 17, 32, 256


def run(cell, xs, h0, lengths, starts):
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    options = CallOptions(node_types(cell), requested="mosaic_gpu")
    spec = make_call_spec(cell, xs, h0, options)
    inputs = make_scan_inputs(xs, SequenceControls(lengths, None, starts), reverse=True)
    kernels = with_transform_rules(make_kernels(), INTERFACE, "cuda")
    return fused.run(spec, cell, inputs, h0, reverse=True, kernels=kernels)


def loss(cell, xs, h0, lengths, starts):
    last, ys = run(cell, xs, h0, lengths, starts)
    return last.sum() + ys.astype(jnp.float32).sum()


def arguments(batch: int):
    cell = jax.eval_shape(
        functools.partial(gru_jax.init, input_size=INPUT, hidden_size=HIDDEN, learned_h0=True),
        jax.random.key(0),
    )
    shape = jax.ShapeDtypeStruct
    return (
        cell,
        shape((TIME, batch, INPUT), jnp.bfloat16),
        shape((batch, HIDDEN), jnp.float32),
        shape((batch,), jnp.int32),
        shape((TIME, batch), jnp.bool_),
    )


def kernels_in(compiled) -> int:
    return len(re.findall(r"custom_call_target=\"mosaic_gpu", compiled.as_text()))


@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_a_gradient_contains_both_kernels(x64):
    with jax.enable_x64(x64):
        gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
        compiled = gradient.lower(*compile_for_gpu.on_h100(arguments(BATCH))).compile()
    assert kernels_in(compiled) == 2


def test_a_donated_state():
    donating = jax.jit(run, donate_argnums=2)
    assert kernels_in(donating.lower(*compile_for_gpu.on_h100(arguments(BATCH))).compile()) == 1


def test_a_mapped_axis():
    cell, *rest = arguments(BATCH)
    stacked = [jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype) for leaf in rest]
    mapped = jax.jit(jax.grad(lambda *args: jax.vmap(loss, (None, 0, 0, 0, 0))(*args).sum()))
    assert kernels_in(mapped.lower(*compile_for_gpu.on_h100((cell, *stacked))).compile()) == 2


def place(specs, trees, mesh):
    """Types of arrays on a mesh, by their specs."""

    def of_leaf(spec, leaf):
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return [
        jax.tree.map(functools.partial(of_leaf, spec), tree)
        for spec, tree in zip(specs, trees, strict=True)
    ]


SPECS = (
    PartitionSpec(),
    PartitionSpec(None, "data"),
    PartitionSpec("data"),
    PartitionSpec("data"),
    PartitionSpec(None, "data"),
)


def test_shard_map_over_the_batch():
    mesh = compile_for_gpu.mesh(2)

    def total(*args):
        return jax.lax.psum(loss(*args), "data")

    sharded = jax.shard_map(total, mesh=mesh, in_specs=SPECS, out_specs=PartitionSpec())
    placed = place(SPECS, arguments(2 * BATCH), mesh)
    assert kernels_in(jax.jit(jax.grad(sharded)).lower(*placed).compile()) == 2


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_batch_sharded_over_several_gpus(axis_type):
    """By default each runs the kernels for its own sequences, and gradients are summed once."""
    devices = compile_for_gpu.mesh(2).devices
    mesh = Mesh(devices, ("data",), axis_types=(axis_type,))
    placed = place(SPECS, arguments(2 * BATCH), mesh)

    def by_default(cell, xs, h0, lengths, starts):
        last, ys = gru_jax.unroll(cell, xs, h0, lengths=lengths, starts=starts)
        return last.sum() + ys.astype(jnp.float32).sum()

    with fake_default_device("gpu", "NVIDIA H100 80GB HBM3", count=2):
        compiled = jax.jit(jax.grad(by_default)).lower(*placed).compile()
    assert kernels_in(compiled) == 2
    assert set(collectives(compiled.as_text())) == {("all-reduce", False)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_xla_gradient_launches_few_kernels_per_step(dtype):
    def per_step(implementation):
        def loss(cell, xs, h0):
            last, ys = gru_jax.unroll(cell, xs, h0, implementation=implementation)
            return last.sum() + ys.astype(jnp.float32).sum()

        cell, xs, h0, *_ = arguments(BATCH)
        placed = compile_for_gpu.on_h100((cell, jax.ShapeDtypeStruct(xs.shape, dtype), h0))
        # While a program is traced, the device that it will be compiled for is not known.
        with fake_default_device("gpu", "NVIDIA H100 80GB HBM3"):
            compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*placed).compile()
        return launches(compiled.as_text()) / TIME

    by_xla = per_step("xla")
    assert by_xla < 11
    assert by_xla < per_step("scan") / 2
