"""Compiles for an H100 on a machine without a GPU: XLA's pipeline for GPUs, Mosaic, ptxas.

Run as a program, it compiles the kernels and prints the report of ptxas. It needs the wheels of the
extra gpu-compiler in the version of the installed jax.
"""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gru_jax._unroll.fused.interface import BackwardArgs, ForwardArgs

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
  l2_cache_size: 52428800
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_core: 233472
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
"""XLA's GpuTargetConfigProto of the device; NVIDIA H100 data sheet, CUDA's tables of 9.0."""

SIZES = (128, 256, 384, 512)


def missing_compiler() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    for package in ("jax_plugins.xla_cuda13", "nvidia.cu13"):
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"no {package}, part of the compiler for GPUs: pip install '.[gpu-compiler]'"
    return None


def reports_of(module: str, *arguments: str, **dump: str) -> dict[str, str]:
    """Runs a module of this folder that compiles kernels; returns what was printed of each.

    ``dump`` is what makes Mosaic print, as environment variables.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"tests.unroll.fused.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **dump},
        timeout=600,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    parts = re.split(r"^== (.*)$", output, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def mesh(devices: int = 1) -> Mesh:
    """A mesh of H100s with the axis "data"."""
    topology = topologies.get_topology_desc(
        "h100", platform="cuda", target_config=H100, topology=f"1x1x{devices}"
    )
    return topologies.make_mesh(topo=topology, mesh_shape=(devices,), axis_names=("data",))


def on_h100(tree: Any) -> Any:
    """The types of arrays on an H100, for ``jax.jit(f).lower``."""
    sharding = NamedSharding(mesh(), PartitionSpec())

    def place(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    return jax.tree.map(place, tree)


def compile_kernels(time: int = 512, batch: int = 64) -> None:
    """Compiles the kernels of every size, the forward kernel with and without flags."""
    from gru_jax._unroll.fused.hopper.launch import make_kernels

    for hidden in SIZES:
        forward = functools.partial(make_kernels().forward, reverse=False, dtype=jnp.float32)
        backward = functools.partial(make_kernels().backward, reverse=True)
        float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
        bfloat16 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
        per_step, state = (time, batch, hidden), float32((batch, hidden))
        flags = jax.ShapeDtypeStruct((time, batch), jnp.bool_)
        forward_args = ForwardArgs(
            projected=(float32(per_step),) * 3,
            w_h=bfloat16((hidden, 3 * hidden)),
            b_hn=float32((hidden,)),
            h0=state,
            reset_state=state,
            valid=None,
            resets=None,
        )
        backward_args = BackwardArgs(
            d_ys=float32(per_step),
            state_jacobian=float32(per_step),
            gate_jacobians=(bfloat16(per_step),) * 3,
            w_h_t=bfloat16((3 * hidden, hidden)),
            d_h_last=state,
        )
        for name, kernel, args in (
            ("forward", forward, forward_args),
            ("flags", forward, forward_args._replace(valid=flags, resets=flags)),
            ("backward", backward, backward_args),
        ):
            print(f"== {name} {hidden}", flush=True)
            jax.jit(kernel).lower(on_h100(args)).compile()


if __name__ == "__main__":
    compile_kernels()
