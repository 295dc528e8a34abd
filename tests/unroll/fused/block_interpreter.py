"""What the one-block kernels' tests need: the interpreter for GPU with a warpgroup's matmuls.

JAX's interpreter (0.12) runs the warpgroups of a block concurrently, with their barriers and shared
memory. It knows no ``plgpu.mma``: here it is a matmul on this machine, accumulated in float32. Not
interpreted are layouts, shared memory's banks and the instructions' own rounding.
"""

import jax
import jax.numpy as jnp
import pytest

from gru_jax._unroll import call_spec
from gru_jax._unroll.fused import one_block

# The kernels' module needs plgpu of jax 0.11.
needs_mma = pytest.mark.skipif(
    jax.__version_info__ < one_block.MIN_JAX, reason="needs plgpu.mma of jax 0.11"
)


@pytest.fixture(scope="module")
def interpret():
    """Makes the argument ``interpret`` of the kernels; with ``detect_races``, races are errors."""
    if jax.__version_info__[:2] != (0, 12):
        pytest.skip(f"kernels are interpreted with jax 0.12, and this is {jax.__version__}")
    from jax._src.pallas.mosaic_gpu.primitives import mma_p
    from jax.experimental.pallas import mosaic_gpu as plgpu
    from jax.interpreters import mlir

    def mma(accumulator, a, b):
        return accumulator + jax.lax.dot(a, b, preferred_element_type=jnp.float32)

    lowering = mlir.lower_fun(mma, multiple_results=False)
    mlir.register_lowering(mma_p, lowering, platform="cpu")

    def make(*, detect_races=False):
        return plgpu.InterpretGPUParams(detect_races=detect_races)

    with pytest.MonkeyPatch.context() as patch:
        # Its callbacks keep an order, which programs for several devices do not.
        patch.setattr(call_spec, "count_devices", lambda device: 1)
        yield make
