"""Compiles for TPU without one: ``python -m tests.unroll.fused.compile_for_tpu v5e:2x2``.

This is a program of its own because libtpu reads the environment when it is loaded. It prints a
line for each compiled program.
"""

import os
import sys

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    # No metadata server describes this machine, and no TPU on it can be in use.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import gru_jax
from gru_jax._unroll.fused.tpu.tiling import TPU_SPECS, max_hidden_size
from tests.unroll.fake_device import fake_default_device

KERNEL = 'custom_call_target="tpu_custom_call"'
INPUT = 64


def main(name: str) -> None:
    devices = topologies.get_topology_desc(name, platform="tpu").devices
    kind = devices[0].device_kind
    with fake_default_device("tpu", kind):
        for time, batch, hidden in (
            (19, 17, 128),
            (2, 1, max_hidden_size(TPU_SPECS[kind])),
            (8, 512, 512),
        ):
            compile_gradient(devices[:1], time, batch, hidden)
        with jax.enable_x64(True):
            compile_gradient(devices[:1], 19, 17, 128)
    with fake_default_device("tpu", kind, count=2):
        compile_gradient(devices[:2], 4, 32, 128)


def compile_gradient(devices, time, batch, hidden):
    """Compiles the gradient of a loss of all outputs, with the batch sharded over ``devices``."""
    mesh = Mesh(np.array(devices), ("data",))
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), INPUT, hidden, learned_h0=True))
    replicated, by_batch = PartitionSpec(), PartitionSpec(None, "data")

    def shaped(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    arguments = (
        jax.tree.map(lambda leaf: shaped(leaf.shape, leaf.dtype, replicated), params),
        shaped((time, batch, INPUT), jnp.bfloat16, by_batch),
        shaped((time, batch), bool, by_batch),
        shaped((time, batch), bool, by_batch),
    )

    def outputs(params, xs, mask, starts):
        return gru_jax.unroll(params, xs, mask=mask, starts=starts, reverse=True)

    if len(devices) > 1:
        outputs = jax.shard_map(
            outputs,
            mesh=mesh,
            in_specs=(replicated, by_batch, by_batch, by_batch),
            out_specs=(PartitionSpec("data"), by_batch),
        )

    def loss(*arguments):
        last, ys = outputs(*arguments)
        return last.sum() + ys.astype(jnp.float32).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    kernels = compiled.as_text().count(KERNEL)
    assert kernels == 2, f"{kernels} kernels in the program, expected one for each direction"
    print(f"{devices[0].device_kind}: T={time} B={batch} H={hidden} on {len(devices)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
