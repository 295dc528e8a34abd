"""Thread-block clusters for the interpreter of Pallas kernels for GPU.

Nothing else runs the kernels of a cluster without a GPU. JAX's interpreter (0.12) runs CTAs
concurrently and detects races between them. This module adds what it lacks: stores into the shared
memory of another CTA (DSMEM), and race detection for the operands that matmuls read from shared
memory.
"""

import functools
import inspect
import random
import re
import textwrap
import time

import jax
import numpy as np
import pytest

from gru_jax._unroll import call_spec


@pytest.fixture(scope="module")
def interpreter():
    """How to run kernels here, for ``plgpu.kernel(interpret=...)``. Races are errors."""
    if jax.__version_info__[:2] != (0, 12):
        pytest.skip(f"kernels are interpreted with jax 0.12, and this is {jax.__version__}")
    from jax.experimental.pallas import mosaic_gpu as plgpu

    with pytest.MonkeyPatch.context() as patch:
        _use_pallas_barriers(patch)
        _add_remote_stores(patch)
        _add_wgmma_reads(patch)
        # Its callbacks keep an order, which programs for several devices do not.
        patch.setattr(call_spec, "count_devices", lambda device: 1)
        yield plgpu.InterpretGPUParams(detect_races=True)


def _sleep_randomly() -> None:
    """Varies the order in which CTAs run."""
    time.sleep(random.random() * 0.004)


def _use_pallas_barriers(patch: pytest.MonkeyPatch) -> None:
    """Pallas barriers count the messages: the interpreter does not run PTX."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from gru_jax._unroll.fused.hopper import dsmem

    def store_remote_async(message, slot_ref, transforms, mbarriers, slot, receiver):
        del transforms
        slot_ref = slot_ref.transpose((1, 0))
        cta = {"cluster_idx": receiver, "cluster_dim": "cta"}
        plgpu.async_store_smem(message, slot_ref, mbarriers.at[slot], optimized=False, **cta)

    def wait_bytes(mbarriers, slot, parity, num_bytes):
        del parity, num_bytes
        plgpu.barrier_wait(mbarriers.at[slot])

    def mbarrier_scratch(num_messages):
        return plgpu.Barrier(num_arrivals=num_messages, num_barriers=2)

    patch.setattr(dsmem, "mbarrier_scratch", mbarrier_scratch)
    patch.setattr(dsmem, "init_mbarriers", lambda mbarriers: None)
    patch.setattr(dsmem, "store_remote_async", store_remote_async)
    patch.setattr(dsmem, "wait_bytes", wait_bytes)


def _add_remote_stores(patch: pytest.MonkeyPatch) -> None:
    from jax._src import callback
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks, jaxpr_interpret

    cta = list(gpu_callbacks.HostAllocationKey.__dataclass_fields__).index("block_id")

    @gpu_callbacks.fail_on_exception
    def wait_until_allocated(token, mesh_location, thread, *keys):
        del mesh_location, thread
        _sleep_randomly()
        memory = gpu_callbacks._get_shared_memory()
        keys = [gpu_callbacks.HostAllocationKey.from_array(key) for key in keys]
        for _ in range(20_000):
            with memory.lock:
                if all(key in memory.mem for key in keys):
                    return token
            time.sleep(0.001)
        raise RuntimeError("the receiving CTA did not allocate its shared memory")

    def store(self, eqn, token, operands):
        message, ref, barrier, receiver, *leaves = operands
        count = eqn.params["ref_transforms_treedef"].num_leaves
        ref, transforms = jaxpr_interpret.resolve_ref(
            eqn.invars[1].aval,
            ref,
            eqn.params["ref_transforms_treedef"].unflatten(leaves[:count]),
        )
        barrier = jaxpr_interpret._get_barrier_allocation_key_from_inval(
            barrier, eqn.params["barrier_transforms_treedef"], leaves[count:]
        )
        ref, barrier = (key.at[cta].set(receiver) for key in (ref, barrier))
        token = callback.io_callback(
            wait_until_allocated,
            gpu_callbacks.TOKEN_SHAPE_DTYPE,
            token,
            self.mesh_location,
            self.thread,
            ref,
            barrier,
        )
        token, _ = gpu_callbacks.call_swap(
            token=token,
            result_shape_and_dtype=eqn.invars[0].aval,
            mesh_location=self.mesh_location,
            thread=self.thread,
            allocation_key_as_array=ref,
            transforms=transforms,
            val=message,
            mask=None,
            source_info=eqn.source_info,
        )
        token = gpu_callbacks.call_barrier_arrive(
            token, self.mesh_location, self.thread, barrier, eqn.source_info
        )
        return token, []

    # The interpreter is one long match over primitives: this adds a case.
    source = textwrap.dedent(inspect.getsource(jaxpr_interpret.JaxprInterpreter.interpret))
    first = re.search(r"( +)case lax\.axis_index_p:", source)
    assert first is not None
    indent = first.group(1)
    case = (
        f"{indent}case gpu_primitives.async_store_smem_p:\n"
        f"{indent}  token, out = self.store(eqn, token, deferred_invals())\n"
    )
    names = dict(vars(jaxpr_interpret))
    exec(source[: first.start()] + case + source[first.start() :], names)
    interpreter = jaxpr_interpret.JaxprInterpreter
    patch.setattr(interpreter, "interpret", names["interpret"])
    patch.setattr(interpreter, "store", store, raising=False)


def _add_wgmma_reads(patch: pytest.MonkeyPatch) -> None:
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks, shared_memory

    wgmma = gpu_callbacks.wgmma

    @gpu_callbacks.fail_on_exception
    @functools.wraps(wgmma)
    def wgmma_with_reads(*, token, mesh_location, thread, source_info=None, **operands):
        _sleep_randomly()
        memory = gpu_callbacks._get_shared_memory()
        info = shared_memory.GPULoggingInfo(mesh_location, thread, source_info)

        def access(name):
            key = gpu_callbacks.HostAllocationKey.from_array(
                operands[f"{name}_allocation_key_as_array"]
            )
            transforms = gpu_callbacks._remove_noop_transforms(operands[f"{name}_transforms"])
            slices = memory.access(key, jax.tree.map(int, transforms))
            content, _, clock = memory.get_buffer_content(key, slices, thread, logging_info=info)
            return key, slices, content, clock

        def read(name):
            key, slices, content, clock = access(name)
            gpu_callbacks.get_races().check_read(
                thread, clock.generic_clock, key, slices, source_info=source_info
            )
            return content

        b = read("b")
        a = np.asarray(operands["a_allocation_key_as_array"])
        if a.ndim == 1:
            a = read("a")
        # Otherwise it is the operand itself, in registers, which the interpreter does not track.
        key, slices, total, _ = access("acc")
        total = total + np.matmul(a, b, dtype=total.dtype)
        memory.store_buffer_content(key, slices, total, thread, logging_info=info)
        return token

    patch.setattr(gpu_callbacks, "wgmma", wgmma_with_reads)
