"""What an exported program does before and after the network: raw units in, raw units out."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from experiments.export_spec import PrePost
from experiments.own_data.encoding import Encoding

if TYPE_CHECKING:
    from gru_jax.interop.onnx.writer import Writer


@dataclasses.dataclass(frozen=True)
class RawUnits(PrePost):
    """Features (batch, T, F) as a data set has them, to predictions in the target's unit.

    A missing number is NaN, a category its index in `encoding`. With scale "sequence" a sequence is
    standardised by all the steps that it is given, without those that are NaN, such as padding.
    Outputs are probabilities of classes along the last axis, or numbers without that axis.
    """

    encoding: Encoding

    def before(self, inputs: jax.Array) -> jax.Array:
        features = self.encoding.features
        if self.encoding.scale == "sequence":
            is_number = jnp.array([feature.categories is None for feature in features])
            is_number = is_number.reshape(1, 1, -1)
            is_given = ~jnp.isnan(inputs)
            count = jnp.maximum(is_given.sum(axis=1, keepdims=True).astype(inputs.dtype), 1)
            mean = jnp.where(is_given, inputs, 0).sum(axis=1, keepdims=True) / count
            missed = jnp.where(is_given, inputs - mean, 0)
            deviation = jnp.sqrt(jnp.square(missed).sum(axis=1, keepdims=True) / count)
            deviation = jnp.where(deviation <= ROUNDING * jnp.abs(mean), 1, deviation)
            mean, deviation = jnp.where(is_number, mean, 0), jnp.where(is_number, deviation, 1)
        else:
            mean = jnp.array([feature.mean for feature in features])
            deviation = jnp.array([feature.deviation for feature in features])
        return self.encoding.encode_values(inputs, mean, deviation, jnp)

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        del inputs
        target = self.encoding.target
        assert target is not None
        if target.classes is not None:
            return jax.nn.softmax(outputs, axis=-1)
        return outputs[..., 0] * target.deviation + target.mean

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        features = self.encoding.features
        count, last, zero = len(features), writer.integers(2), writer.constant(0)
        is_missing = writer.node("IsNaN", inputs)
        numbers = writer.node("Where", is_missing, zero, inputs)
        if self.encoding.scale == "sequence":
            mean, deviation = self._onnx_statistics(writer, numbers, is_missing)
        else:
            mean = writer.constant([feature.mean for feature in features])
            deviation = writer.constant([feature.deviation for feature in features])
        scaled = writer.node("Div", writer.node("Sub", inputs, mean), deviation)
        scaled = writer.node("Where", is_missing, zero, scaled)
        indicators = writer.cast(is_missing, writer.dtype)
        # No category is below zero.
        indices = writer.node("Where", is_missing, writer.constant(-1), inputs)
        columns, embedded = [], []
        for index in range(count):
            feature = features[index]
            begin, end = writer.integers(index), writer.integers(index + 1)

            def column(value: str, begin: str = begin, end: str = end) -> str:
                return writer.node("Slice", value, begin, end, last)

            if feature.categories is None:
                columns.append(column(scaled))
                if feature.has_missing:
                    columns.append(column(indicators))
                continue
            value, size = column(indices), len(feature.categories)
            if feature.is_embedded:
                is_known = writer.node(
                    "And",
                    writer.node("GreaterOrEqual", value, zero),
                    writer.node("Less", value, writer.constant(size)),
                )
                embedded.append(writer.node("Where", is_known, value, writer.constant(size)))
            else:
                every = writer.constant(list(range(size)))
                columns.append(writer.cast(writer.node("Equal", value, every), writer.dtype))
        return writer.node("Concat", *columns, *embedded, axis=-1)

    def _onnx_statistics(self, writer: "Writer", numbers: str, missing: str) -> tuple[str, str]:
        """Adds mean and deviation (batch, 1, F) of numbers (batch, T, F), 0 where missing."""
        time, one = writer.integers(1), writer.constant(1)
        given = writer.cast(writer.node("Not", missing), writer.dtype)
        count = writer.node("Max", writer.node("ReduceSum", given, time), one)
        mean = writer.node("Div", writer.node("ReduceSum", numbers, time), count)
        missed = writer.node("Mul", writer.node("Sub", numbers, mean), given)
        squares = writer.node("ReduceSum", writer.node("Mul", missed, missed), time)
        deviation = writer.node("Sqrt", writer.node("Div", squares, count))
        least = writer.node("Mul", writer.node("Abs", mean), writer.constant(ROUNDING))
        is_constant = writer.node("LessOrEqual", deviation, least)
        return mean, writer.node("Where", is_constant, one, deviation)

    def onnx_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        del inputs
        target = self.encoding.target
        assert target is not None
        if target.classes is not None:
            return writer.node("Softmax", outputs, axis=-1)
        numbers = writer.node("Squeeze", outputs, writer.integers(-1))
        scaled = writer.node("Mul", numbers, writer.constant(target.deviation))
        return writer.node("Add", scaled, writer.constant(target.mean))


ROUNDING = 1e-6
"""Deviations of float32 numbers of this fraction of the mean are rounding errors."""


@dataclasses.dataclass(frozen=True)
class TokenIndices(PrePost):
    """Tokens (batch, T), int32, to indices of an embedding (batch, T, 1).

    Attributes:
        count: the number of known tokens, V; all others have the index V.
    """

    count: int

    def before(self, inputs: jax.Array) -> jax.Array:
        is_known = (inputs >= 0) & (inputs < self.count)
        return jnp.where(is_known, inputs, self.count).astype(jnp.float32)[..., None]

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        # Exact, as there are fewer than 2^24 tokens.
        numbers, count = writer.cast(inputs, writer.dtype), writer.constant(self.count)
        is_known = writer.node(
            "And",
            writer.node("GreaterOrEqual", numbers, writer.constant(0)),
            writer.node("Less", numbers, count),
        )
        indices = writer.node("Where", is_known, numbers, count)
        return writer.node("Unsqueeze", indices, writer.integers(-1))
