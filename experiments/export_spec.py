"""What of a trained task is exported: a network between two ends, each in JAX and in ONNX."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from experiments.models.recurrent import Network
from experiments.task import Array, Params

if TYPE_CHECKING:
    from gru_jax.interop.onnx.writer import Writer

Size = int | str


@dataclasses.dataclass(frozen=True)
class Ends:
    """What stands before a network's inputs and after its outputs: nothing, unless a task has it.

    The `write` functions add the nodes that compute the same, and take and return names of values.
    """

    def before(self, inputs: jax.Array) -> jax.Array:
        return inputs

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        del inputs
        return outputs

    def write_before(self, writer: "Writer", inputs: str) -> str:
        del writer
        return inputs

    def write_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        del writer, inputs
        return outputs


@dataclasses.dataclass(frozen=True)
class Standardised(Ends):
    """Numbers (batch, time), less their mean over their deviation, as features (batch, time, 1)."""

    mean: float
    deviation: float

    def before(self, inputs: jax.Array) -> jax.Array:
        return ((inputs - self.mean) / self.deviation)[..., None]

    def write_before(self, writer: "Writer", inputs: str) -> str:
        centred = writer.node("Sub", inputs, writer.constant(self.mean))
        scaled = writer.node("Div", centred, writer.constant(self.deviation))
        return writer.node("Unsqueeze", scaled, writer.integers(-1))


@dataclasses.dataclass(frozen=True)
class OneHot(Ends):
    """Symbols (batch, time), each as a feature that is 1 among others that are 0."""

    size: int

    def before(self, inputs: jax.Array) -> jax.Array:
        return jax.nn.one_hot(inputs, self.size)

    def write_before(self, writer: "Writer", inputs: str) -> str:
        off_on = writer.constant([0, 1])
        places = writer.cast(inputs, "int64")
        return writer.node("OneHot", places, writer.integers(self.size), off_on, axis=-1)


@dataclasses.dataclass(frozen=True)
class Changes(Ends):
    """Forecasts: changes from the last hour of a window (batch, window, columns) in segments.

    Attributes:
        window: hours that are read.
        horizon: hours that are forecast.
        columns: how many there are.
        segment: hours that are read in one step.
        together: whether the network reads all columns at once, or each by itself.
    """

    window: int
    horizon: int
    columns: int
    segment: int
    together: bool

    def before(self, inputs: jax.Array) -> jax.Array:
        changes = inputs - inputs[:, -1:]
        if not self.together:
            changes = changes.swapaxes(1, 2).reshape(-1, self.window, 1)
        return changes.reshape(changes.shape[0], self.window // self.segment, self._features)

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        if self.together:
            return inputs[:, -1:] + outputs.reshape(-1, self.horizon, self.columns)
        return inputs[:, -1:] + outputs.reshape(-1, self.columns, self.horizon).swapaxes(1, 2)

    def write_before(self, writer: "Writer", inputs: str) -> str:
        changes = writer.node("Sub", inputs, self._write_last(writer, inputs))
        if not self.together:
            changes = writer.node("Transpose", changes, perm=[0, 2, 1])
        shape = writer.integers(-1, self.window // self.segment, self._features)
        return writer.node("Reshape", changes, shape)

    def write_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        last = self._write_last(writer, inputs)
        sizes = (self.horizon, self.columns) if self.together else (self.columns, self.horizon)
        changes = writer.node("Reshape", outputs, writer.integers(-1, *sizes))
        if not self.together:
            changes = writer.node("Transpose", changes, perm=[0, 2, 1])
        return writer.node("Add", last, changes)

    @property
    def _features(self) -> int:
        return self.segment * (self.columns if self.together else 1)

    def _write_last(self, writer: "Writer", inputs: str) -> str:
        begin, end, axis = writer.integers(-1), writer.integers(self.window), writer.integers(1)
        return writer.node("Slice", inputs, begin, end, axis)


@dataclasses.dataclass(frozen=True)
class Serving:
    """What is exported of a task.

    Attributes:
        apply: (params, inputs, lengths or None) -> outputs, which the whole model computes.
        inputs: their shape; a name stands for any size.
        outputs: their shape.
        dtype: of the inputs.
        lengths: whether sequences may be shorter than the longest.
        network: the network, where there is one that other formats may hold.
        ends: what stands before and after it.
    """

    apply: Callable[[Params, Array, Array | None], jax.Array]
    inputs: tuple[Size, ...]
    outputs: tuple[Size, ...]
    dtype: str = "float32"
    lengths: bool = False
    network: Network | None = None
    ends: Ends = Ends()


def serving(
    network: Network,
    ends: Ends,
    inputs: tuple[Size, ...],
    outputs: tuple[Size, ...],
    **options: Any,
) -> Serving:
    """A network between its ends."""

    def apply(params: Params, inputs: Array, lengths: Array | None) -> jax.Array:
        given = jnp.asarray(inputs)
        return ends.after(given, network.apply(params, ends.before(given), lengths=lengths))

    return Serving(apply, inputs, outputs, network=network, ends=ends, **options)
