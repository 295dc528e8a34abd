"""Compiles the one-block kernels for an architecture of GPU, which it takes as an argument.

The machine needs no GPU, but the wheels of the extra gpu-compiler in the version of the installed
jax. It prints the report of ptxas on each kernel.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from gru_jax._unroll.fused.one_block.interface import (
    RESIDUAL_DTYPE,
    BackwardArgs,
    ForwardArgs,
)

TARGET = """
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 12 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} {extension} }}
  core_count: {cores}
  fpus_per_core: 128
  clock_rate_ghz: 1.7
  memory_bandwidth: 2000000000000
  device_memory_size: 40000000000
  l2_cache_size: 41943040
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: {shared_core}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_block}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: {threads}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""
"""XLA's GpuTargetConfigProto; clock, bandwidth and memory do not matter to the kernels."""

ACCELERATED = "feature_extension: ACCELERATED_FEATURES"

# Multiprocessors of the device; shared memory and threads from the CUDA programming guide's table
# of compute capabilities.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    name: dict(
        zip(
            ("name", "major", "minor", "cores", "shared_core", "shared_block", "threads"),
            values,
            strict=True,
        ),
        extension=ACCELERATED if name == "sm_120" else "",
    )
    for name, values in {
        "sm_80": ("NVIDIA A100-SXM4-80GB", 8, 0, 108, 167936, 166912, 2048),
        "sm_86": ("NVIDIA A10", 8, 6, 72, 102400, 101376, 1536),
        "sm_89": ("NVIDIA L4", 8, 9, 58, 102400, 101376, 1536),
        "sm_90": ("NVIDIA H100 80GB HBM3", 9, 0, 132, 233472, 232448, 2048),
        "sm_100": ("NVIDIA B200", 10, 0, 148, 233472, 232448, 2048),
        "sm_120": ("NVIDIA RTX PRO 6000 Blackwell", 12, 0, 188, 102400, 101376, 1536),
    }.items()
}

FORMS = (
    (64, 8, "bfloat16", False),
    (64, 16, "float32", True),
    (128, 8, "float32", True),
    (128, 16, "float32", True),
    (192, 8, "float32", True),
    (192, 8, "bfloat16", False),
)
"""H, N, the inputs' dtype, and whether there are flags; float32 with flags holds most registers."""


def mesh(architecture: str) -> jax.sharding.Mesh:
    """A mesh of one GPU of an architecture."""
    topology = topologies.get_topology_desc(
        architecture,
        platform="cuda",
        target_config=TARGET.format(**ARCHITECTURES[architecture]),
        topology="1x1x1",
    )
    return topologies.make_mesh(topo=topology, mesh_shape=(1,), axis_names=("data",))


def compile_for(architecture: str, function: Any, *arguments: Any) -> Any:
    """``function`` compiled for a GPU of an architecture."""
    from jax.experimental.mosaic.gpu import utils

    # On a machine without a GPU Mosaic takes every device for a Hopper GPU.
    facts = ARCHITECTURES[architecture]
    utils._infer_arch = lambda: (facts["major"], facts["minor"])
    devices = mesh(architecture)
    sharding = NamedSharding(devices, PartitionSpec())
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments
    )
    with jax.sharding.use_abstract_mesh(devices.abstract_mesh):
        return jax.jit(function).lower(*placed).compile()


def sample_types(hidden: int, dtype: Any, *, has_flags: bool, copies=2, time=64, batch=33) -> Any:
    """Types of the arguments of the forward and of the backward kernel."""
    shape = jax.ShapeDtypeStruct
    per_step = (copies, time, batch)
    flags = shape(per_step, jnp.int32) if has_flags else None
    w_h = shape((copies, hidden, 3 * hidden), dtype)
    vector = shape((copies, hidden), jnp.float32)
    state = shape((copies, batch, hidden), jnp.float32)
    reverse = shape((copies,), jnp.int32)
    projected = shape((*per_step, 3 * hidden), jnp.float32)
    forward = ForwardArgs(projected, w_h, vector, state, vector, reverse, flags)
    backward = BackwardArgs(
        shape((*per_step, hidden), dtype),
        shape((*per_step, hidden), dtype),
        shape((*per_step, 4 * hidden), RESIDUAL_DTYPE),
        w_h,
        state,
        reverse,
        flags,
    )
    return forward, backward


def compile_kernels(architecture: str) -> None:
    """Compiles the kernels in all their forms."""
    from gru_jax._unroll.fused.one_block.backward import launch_backward
    from gru_jax._unroll.fused.one_block.forward import launch_forward

    for hidden, tile, name, has_flags in FORMS:
        dtype = jnp.dtype(name)
        forward, backward = sample_types(hidden, dtype, has_flags=has_flags)
        options: dict[str, Any] = {"tile": tile, "interpret": None}
        label = f"H={hidden} N={tile} {dtype} {'with' if has_flags else 'without'} flags"
        for save in (False, True):
            print(f"== forward{', saving,' if save else ''} {label}", flush=True)
            launch = functools.partial(launch_forward, dtype=dtype, save=save, **options)
            compile_for(architecture, launch, forward)
        print(f"== backward {label}", flush=True)
        exponent = jax.ShapeDtypeStruct(backward.d_h_last.shape[:2], jnp.int32)
        launch = functools.partial(launch_backward, **options)
        compile_for(architecture, launch, backward, exponent)


if __name__ == "__main__":
    compile_kernels(sys.argv[1])
