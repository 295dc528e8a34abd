"""The axis legend, and names of the library's arrays.

Axes in shape annotations:

- ``time`` (T): steps of a sequence, always the leading axis of the functional API;
- ``*batch`` (B): any number of independent sequences, in any number of axes (none too);
- ``input`` (D): features of one step's input;
- ``hidden`` (H): features of the state;
- ``gates``: k * H, the gates of one cell concatenated.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypedDict

import jax
from jaxtyping import Bool, Float, Int, Num

Array: TypeAlias = jax.Array
DType: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]

State: TypeAlias = Any
"""What a cell carries from step to step: an array, or a tuple of arrays (*batch, hidden)."""

ProjectedInputs: TypeAlias = Any
"""What a cell makes of its inputs for all steps at once: arrays with the inputs' leading axes."""

Initializer: TypeAlias = Callable[[Array, Shape, DType], Array]
"""``(key, shape, dtype) -> array``, as in :mod:`jax.nn.initializers`."""

Inputs: TypeAlias = Float[Array, "time *batch input"]
StepInputs: TypeAlias = Float[Array, "*batch input"]
Outputs: TypeAlias = Float[Array, "time *batch output"]
Hidden: TypeAlias = Float[Array, "*batch hidden"]
Lengths: TypeAlias = Int[Array, "*batch"]
TimeMask: TypeAlias = Bool[Array, "time *batch"] | Num[Array, "time *batch"]
"""Booleans, or numbers of which those that are not zero are true."""

ImplementationName: TypeAlias = Literal["mosaic_gpu", "pallas_tpu", "xla", "scan"]
"""The implementations of :func:`gru_jax.unroll`."""

Checkpoint: TypeAlias = Literal["step", "chunk"] | int | None
"""What :func:`gru_jax.unroll` saves for the backward pass."""


class UnrollOptions(TypedDict, total=False):
    """Keyword arguments of :func:`gru_jax.unroll` that its relatives take, too."""

    lengths: Lengths | None
    mask: TimeMask | None
    starts: TimeMask | None
    reverse: bool
    implementation: ImplementationName | None
    checkpoint: Checkpoint
