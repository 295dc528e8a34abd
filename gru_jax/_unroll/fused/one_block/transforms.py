"""JVP, vmap and lowering rules of the one-block kernels."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gru_jax._unroll.fused.one_block.interface import (
    BACKWARD_BATCH_AXES,
    BACKWARD_RESULT_BATCH_AXES,
    FORWARD_BATCH_AXES,
    FORWARD_RESULT_BATCH_AXES,
)
from gru_jax._unroll.fused.one_block.kernels import REFERENCES, Kernels
from gru_jax._unroll.fused.transforms import lower_only_for
from gru_jax._unroll.transform_rules import vmap_reference, with_reference_jvp
from gru_jax.typing import Array


def with_transform_rules(kernels: Kernels, platform: str | None = None) -> Kernels:
    """Kernels that can be differentiated, mapped and lowered for any platform.

    - Derivatives of any order are those of the references.
    - :func:`jax.vmap` joins a mapped axis to the batch, and to the copies where weights are mapped.
    - With a ``platform``, only a program that is lowered for that platform alone contains the
      kernels; others contain the references.
    """

    def wrap(kernel: Any, reference: Any, batch_axes: Any, result_axes: Any) -> Any:
        def call(args: Any, **options: Any) -> Any:
            plain = functools.partial(reference, **options)
            device = functools.partial(kernel, **options)
            if platform is not None:
                device = lower_only_for(platform, device, plain)
            mapped = _with_vmap_rule(device, plain, batch_axes, result_axes)
            return with_reference_jvp(mapped, plain)(args)

        return call

    return Kernels(
        wrap(kernels.forward, REFERENCES.forward, FORWARD_BATCH_AXES, FORWARD_RESULT_BATCH_AXES),
        wrap(
            kernels.backward, REFERENCES.backward, BACKWARD_BATCH_AXES, BACKWARD_RESULT_BATCH_AXES
        ),
    )


def _with_vmap_rule(
    kernel: Callable[..., Any], reference: Callable[..., Any], batch_axes: Any, result_axes: Any
) -> Any:
    function = jax.custom_batching.custom_vmap(kernel)

    @function.def_vmap
    def rule(size: int, is_mapped: Any, args: Any) -> tuple[Any, Any]:
        if size == 0:  # a kernel needs a sequence
            return vmap_reference(reference, size, is_mapped, (args,))
        fields = list(zip(args, is_mapped[0], batch_axes, strict=True))
        is_copied = any(axis is None and mapped for _, mapped, axis in fields)

        def join(array: Array | None, mapped: Any, axis: int | None) -> Array | None:
            if array is None:
                return None
            axis = 0 if is_copied else axis
            if axis is None:
                return array
            if not mapped:
                array = jnp.broadcast_to(array, (size, *array.shape))
            array = jnp.moveaxis(array, 0, axis)
            return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])

        def split(array: Array | None, axis: int) -> Array | None:
            if array is None:
                return None
            axis = 0 if is_copied else axis
            array = array.reshape(*array.shape[:axis], size, -1, *array.shape[axis + 1 :])
            return jnp.moveaxis(array, axis, 0)

        result = function(type(args)._make(join(*field) for field in fields))
        result = type(result)._make(map(split, result, result_axes))
        return result, jax.tree.map(lambda _: True, result)

    return function
