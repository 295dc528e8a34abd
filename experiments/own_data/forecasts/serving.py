"""What comes before and after the network of a forecast, in JAX and in ONNX."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from experiments.export_spec import PrePost
from experiments.own_data.encoding import Encoding
from experiments.own_data.serving import RawUnits
from experiments.own_data.units import onnx_window_deviation, window_deviation

if TYPE_CHECKING:
    from gru_jax.interop.onnx.writer import Writer


@dataclasses.dataclass(frozen=True, eq=False)
class Forecast(PrePost):
    """Windows (batch, steps, F) to forecasts (batch, horizon, K), both in the data's own units.

    A missing number is NaN, a category its index in `encoding`. The network reads the encoded
    features of a step and, if some are known ahead, what they are `horizon` steps later.

    A forecast is the last value of a target, plus a linear map of the window's differences from it,
    plus what the network adds. Zhang 2003 (Neurocomputing 50) forecasts residuals of a linear model
    by a network, too. Differences and the network's outputs are in units of the target's deviation:
    that of the training part, or with scale "sequence" that of the window.

    Attributes:
        encoding: of the features; the targets are the first K.
        window, horizon: steps.
        num_targets: K.
        weights: (window, horizon) of the linear map, which all targets share.
        bias: (horizon,).
    """

    encoding: Encoding
    window: int
    horizon: int
    num_targets: int
    weights: np.ndarray
    bias: np.ndarray

    @property
    def ahead(self) -> list[int]:
        """The indices of the features that are known ahead."""
        return [place for place, each in enumerate(self.encoding.features) if each.known_ahead]

    @property
    def encoding_ahead(self) -> Encoding:
        """The encoding of the features that are known ahead."""
        features = tuple(self.encoding.features[place] for place in self.ahead)
        return self.encoding.model_copy(update={"features": features})

    @property
    def steps(self) -> int:
        """Steps of the inputs."""
        return self.window + (self.horizon if self.ahead else 0)

    @property
    def width(self) -> int:
        """Features of the network's inputs."""
        return self.encoding.width + (self.encoding_ahead.width if self.ahead else 0)

    @property
    def embeddings(self) -> tuple[tuple[int, int], ...]:
        """The number of categories and the size of each embedding, whose indices are last."""
        return self.encoding.embeddings + (self.encoding_ahead.embeddings if self.ahead else ())

    def before(self, inputs: jax.Array) -> jax.Array:
        encoded = RawUnits(self.encoding).before(inputs[:, : self.window])
        if not self.ahead:
            return encoded
        later = inputs[:, self.horizon :, jnp.array(self.ahead)]
        of_later = RawUnits(self.encoding_ahead).before(later)
        first, last = (
            each.width - len(each.embeddings) for each in (self.encoding, self.encoding_ahead)
        )
        numbers = [encoded[..., :first], of_later[..., :last]]
        return jnp.concatenate([*numbers, encoded[..., first:], of_later[..., last:]], axis=-1)

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        last, deviation, differences = self.scaled(inputs)
        weights, bias = (jnp.asarray(each, inputs.dtype) for each in (self.weights, self.bias))
        linear = jnp.einsum("bwk,wh->bhk", differences, weights) + bias[None, :, None]
        added = outputs.reshape(outputs.shape[0], self.horizon, self.num_targets)
        return last + deviation * (linear + added)

    def scaled(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns last values and deviations (batch, 1, K), and differences (batch, window, K).

        A missing difference is 0. Without any value, the last one is the training part's mean.
        """
        targets = inputs[:, : self.window, : self.num_targets]
        is_given = ~jnp.isnan(targets)
        places = jnp.arange(1, self.window + 1, dtype=inputs.dtype)[None, :, None]
        place = jnp.where(is_given, places, 0)
        latest = place.max(axis=1, keepdims=True)
        last = jnp.where((place == latest) & is_given, targets, 0).sum(axis=1, keepdims=True)
        last = jnp.where(latest == 0, self.constant("mean"), last)
        deviation = jnp.asarray(self.constant("deviation"))
        if self.encoding.scale == "sequence":
            deviation = window_deviation(targets, is_given, deviation)
        differences = jnp.where(is_given, (targets - last) / deviation, 0)
        return last, deviation, differences

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        window = _slice(writer, inputs, 0, self.window, 1)
        encoded = RawUnits(self.encoding).onnx_before(writer, window)
        if not self.ahead:
            return encoded
        later = _slice(writer, inputs, self.horizon, self.steps, 1)
        later = writer.node("Gather", later, writer.integers(*self.ahead), axis=2)
        of_later = RawUnits(self.encoding_ahead).onnx_before(writer, later)
        parts = []
        for value, each in ((encoded, self.encoding), (of_later, self.encoding_ahead)):
            first = each.width - len(each.embeddings)
            parts.append(
                (_slice(writer, value, 0, first, 2), _slice(writer, value, first, each.width, 2))
            )
        numbers, embedded = zip(*parts, strict=True)
        return writer.node("Concat", *numbers, *embedded, axis=-1)

    def onnx_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        time, zero = writer.integers(1), writer.constant(0)
        window = _slice(writer, inputs, 0, self.window, 1)
        targets = _slice(writer, window, 0, self.num_targets, 2)
        is_missing = writer.node("IsNaN", targets)
        is_given = writer.node("Not", is_missing)
        places = writer.constant(np.arange(1, self.window + 1).reshape(1, -1, 1))
        place = writer.node("Where", is_given, places, zero)
        latest = writer.node("ReduceMax", place, axes=[1])
        is_last = writer.node("And", writer.node("Equal", place, latest), is_given)
        last = writer.node("ReduceSum", writer.node("Where", is_last, targets, zero), time)
        has_none = writer.node("Equal", latest, zero)
        last = writer.node("Where", has_none, writer.constant(self.constant("mean")), last)
        of_training = self.constant("deviation")
        deviation = (
            onnx_window_deviation(writer, targets, is_given, of_training)
            if self.encoding.scale == "sequence"
            else writer.constant(of_training)
        )
        scaled = writer.node("Div", writer.node("Sub", targets, last), deviation)
        differences = writer.node("Where", is_given, scaled, zero)
        by_target = writer.node("Transpose", differences, perm=[0, 2, 1])
        linear = writer.node("MatMul", by_target, writer.constant(self.weights))
        linear = writer.node("Add", linear, writer.constant(self.bias))
        linear = writer.node("Transpose", linear, perm=[0, 2, 1])
        shape = writer.integers(-1, self.horizon, self.num_targets)
        added = writer.node("Add", linear, writer.node("Reshape", outputs, shape))
        return writer.node("Add", last, writer.node("Mul", deviation, added))

    def constant(self, name: str) -> np.ndarray:
        """Returns the targets' means or deviations in the training part, (1, 1, K)."""
        features = self.encoding.features[: self.num_targets]
        return np.array([[[getattr(feature, name) for feature in features]]], np.float32)


def _slice(writer: "Writer", value: str, begin: int, end: int, axis: int) -> str:
    return writer.node("Slice", value, *map(writer.integers, (begin, end, axis)))
