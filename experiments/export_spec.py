"""What `export` writes of a task: a network with pre- and postprocessing, in JAX and in ONNX."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from experiments.models.recurrent import Network
from experiments.typing import Array, Params

if TYPE_CHECKING:
    from gru_jax.interop.onnx.writer import Writer

Size = int | str


@dataclasses.dataclass(frozen=True)
class PrePost:
    """Preprocessing of a network's inputs and postprocessing of its outputs; here the identity.

    The `onnx_` methods add the nodes that compute the same; they take and return names of values.
    """

    def before(self, inputs: jax.Array) -> jax.Array:
        return inputs

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        del inputs
        return outputs

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        del writer
        return inputs

    def onnx_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        del writer, inputs
        return outputs


@dataclasses.dataclass(frozen=True)
class Standardize(PrePost):
    """Scalars (batch, time), minus the mean, over the deviation, as features (batch, time, 1)."""

    mean: float
    deviation: float

    def before(self, inputs: jax.Array) -> jax.Array:
        return ((inputs - self.mean) / self.deviation)[..., None]

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        centred = writer.node("Sub", inputs, writer.constant(self.mean))
        scaled = writer.node("Div", centred, writer.constant(self.deviation))
        return writer.node("Unsqueeze", scaled, writer.integers(-1))


@dataclasses.dataclass(frozen=True)
class OneHot(PrePost):
    """Symbols (batch, time) as one-hot features (batch, time, size)."""

    size: int

    def before(self, inputs: jax.Array) -> jax.Array:
        return jax.nn.one_hot(inputs, self.size)

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        off_on = writer.constant([0, 1])
        indices = writer.cast(inputs, "int64")
        return writer.node("OneHot", indices, writer.integers(self.size), off_on, axis=-1)


@dataclasses.dataclass(frozen=True)
class DifferenceForecast(PrePost):
    """Forecasts of the difference from the last hour of a window (batch, window, columns).

    Attributes:
        window: hours of input.
        horizon: hours of the forecast.
        columns: number of columns.
        segment: hours of input per time step.
        joint_columns: whether the network's inputs are all columns together, or one column.
    """

    window: int
    horizon: int
    columns: int
    segment: int
    joint_columns: bool

    def before(self, inputs: jax.Array) -> jax.Array:
        differences = inputs - inputs[:, -1:]
        if not self.joint_columns:
            differences = differences.swapaxes(1, 2).reshape(-1, self.window, 1)
        return differences.reshape(
            differences.shape[0], self.window // self.segment, self._features
        )

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        if self.joint_columns:
            return inputs[:, -1:] + outputs.reshape(-1, self.horizon, self.columns)
        return inputs[:, -1:] + outputs.reshape(-1, self.columns, self.horizon).swapaxes(1, 2)

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        differences = writer.node("Sub", inputs, self._onnx_last(writer, inputs))
        if not self.joint_columns:
            differences = writer.node("Transpose", differences, perm=[0, 2, 1])
        shape = writer.integers(-1, self.window // self.segment, self._features)
        return writer.node("Reshape", differences, shape)

    def onnx_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        last = self._onnx_last(writer, inputs)
        sizes = (self.horizon, self.columns)
        if not self.joint_columns:
            sizes = sizes[::-1]
        differences = writer.node("Reshape", outputs, writer.integers(-1, *sizes))
        if not self.joint_columns:
            differences = writer.node("Transpose", differences, perm=[0, 2, 1])
        return writer.node("Add", last, differences)

    @property
    def _features(self) -> int:
        return self.segment * (self.columns if self.joint_columns else 1)

    def _onnx_last(self, writer: "Writer", inputs: str) -> str:
        begin, end, axis = writer.integers(-1), writer.integers(self.window), writer.integers(1)
        return writer.node("Slice", inputs, begin, end, axis)


@dataclasses.dataclass(frozen=True)
class ExportSpec:
    """What is exported of a task.

    Attributes:
        apply: (params, inputs, lengths or None) -> outputs, the whole computation.
        inputs: their shape; a name stands for any size.
        outputs: their shape.
        dtype: of the inputs.
        lengths: whether `apply` takes the lengths of the sequences.
        streams: whether the preprocessing of a step needs no other steps.
        network: the network, for formats that hold a network; None if there is none of GRUs.
        pre_post: the network's pre- and postprocessing.
        metadata: values of JSON that are stored in the files, such as the names of classes.
    """

    apply: Callable[[Params, Array, Array | None], jax.Array]
    inputs: tuple[Size, ...]
    outputs: tuple[Size, ...]
    dtype: str = "float32"
    lengths: bool = False
    streams: bool = True
    network: Network | None = None
    pre_post: PrePost = PrePost()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def make_export_spec(
    network: Network,
    pre_post: PrePost,
    inputs: tuple[Size, ...],
    outputs: tuple[Size, ...],
    **options: Any,
) -> ExportSpec:
    """Returns the spec of a network with its pre- and postprocessing."""

    def apply(params: Params, inputs: Array, lengths: Array | None) -> jax.Array:
        inputs = jnp.asarray(inputs)
        outputs = network.apply(params, pre_post.before(inputs), lengths=lengths)
        return pre_post.after(inputs, outputs)

    return ExportSpec(apply, inputs, outputs, network=network, pre_post=pre_post, **options)
