"""What comes before and after the network of an imputation, in JAX and in ONNX."""

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
class FillGaps(PrePost):
    """Windows (batch, window, F) to their numbers (batch, window, K) without gaps.

    Both are in the data's own units. A missing number is NaN, a category its index in `encoding`. A
    number that is given stays as it is. A missing one is on the line between its neighbours in
    time, plus what the network adds, in units of the number's deviation: that of the training part,
    or with scale "sequence" that of the window.

    Attributes:
        encoding: of the features.
        window: steps.
        numbers: the K features that are numbers.
    """

    encoding: Encoding
    window: int
    numbers: tuple[int, ...]

    def before(self, inputs: jax.Array) -> jax.Array:
        return RawUnits(self.encoding).before(inputs)

    def after(self, inputs: jax.Array, outputs: jax.Array) -> jax.Array:
        values = inputs[..., jnp.array(self.numbers)]
        is_given = ~jnp.isnan(values)
        deviation = self.constant("deviation")
        if self.encoding.scale == "sequence":
            deviation = window_deviation(values, is_given, deviation)
        return jnp.where(is_given, values, self.line(values, is_given) + deviation * outputs)

    def line(self, values: jax.Array, is_given: jax.Array) -> jax.Array:
        """Returns the line between the neighbours in time of each of the values.

        At the ends it is the only neighbour; without any, the training part's mean.
        """
        steps = jnp.arange(self.window, dtype=values.dtype)
        # Axes: batch, step, its neighbour, number.
        step, place = steps[None, :, None, None], steps[None, None, :, None]
        given, known = is_given[:, None], jnp.where(is_given, values, 0)[:, None]
        is_before, is_after = given & (place <= step), given & (place >= step)
        before = jnp.where(is_before, place, -1).max(axis=2)
        after = jnp.where(is_after, place, self.window).min(axis=2)
        left = jnp.where(place == before[:, :, None], known, 0).sum(axis=2)
        right = jnp.where(place == after[:, :, None], known, 0).sum(axis=2)
        share = (step[:, :, 0] - before) / jnp.maximum(after - before, 1)
        inside = left + (right - left) * share
        first, last = before < 0, after >= self.window
        outside = jnp.where(first & last, self.constant("mean"), jnp.where(first, right, left))
        return jnp.where(first | last, outside, inside)

    def onnx_before(self, writer: "Writer", inputs: str) -> str:
        return RawUnits(self.encoding).onnx_before(writer, inputs)

    def onnx_after(self, writer: "Writer", inputs: str, outputs: str) -> str:
        values = writer.node("Gather", inputs, writer.integers(*self.numbers), axis=2)
        is_given = writer.node("Not", writer.node("IsNaN", values))
        of_training = self.constant("deviation")
        deviation = (
            onnx_window_deviation(writer, values, is_given, of_training)
            if self.encoding.scale == "sequence"
            else writer.constant(of_training)
        )
        added = writer.node("Mul", deviation, outputs)
        filled = writer.node("Add", self._onnx_line(writer, values, is_given), added)
        return writer.node("Where", is_given, values, filled)

    def _onnx_line(self, writer: "Writer", values: str, is_given: str) -> str:
        zero, one, axis = writer.constant(0), writer.constant(1), writer.integers(2)
        steps = np.arange(self.window)
        place = writer.constant(steps.reshape(1, 1, -1, 1))
        neighbours = writer.integers(1)
        given = writer.node("Unsqueeze", is_given, neighbours)
        known = writer.node("Unsqueeze", writer.node("Where", is_given, values, zero), neighbours)
        sides = []
        for reduce, outside, allowed in (
            ("ReduceMax", -1, steps[:, None] >= steps),
            ("ReduceMin", self.window, steps[:, None] <= steps),
        ):
            is_side = writer.node(
                "And", given, writer.constant(allowed.reshape(1, *allowed.shape, 1), "bool")
            )
            places = writer.node("Where", is_side, place, writer.constant(outside))
            found = writer.node(reduce, places, axes=[2])
            is_it = writer.node("Equal", place, found)
            value = writer.node("ReduceSum", writer.node("Where", is_it, known, zero), axis)
            sides += [writer.node("Squeeze", each, axis) for each in (found, value)]
        before, left, after, right = sides
        step = writer.constant(steps.reshape(1, -1, 1))
        span = writer.node("Max", writer.node("Sub", after, before), one)
        share = writer.node("Div", writer.node("Sub", step, before), span)
        rise = writer.node("Mul", writer.node("Sub", right, left), share)
        inside = writer.node("Add", left, rise)
        first = writer.node("Less", before, zero)
        last = writer.node("GreaterOrEqual", after, writer.constant(self.window))
        one_side = writer.node("Where", first, right, left)
        none = writer.node("And", first, last)
        outside = writer.node("Where", none, writer.constant(self.constant("mean")), one_side)
        return writer.node("Where", writer.node("Or", first, last), outside, inside)

    def constant(self, name: str) -> np.ndarray:
        """Returns the numbers' means or deviations in the training part, (1, 1, K)."""
        found = [getattr(self.encoding.features[place], name) for place in self.numbers]
        return np.array([[found]], np.float32)
