"""Propagation rules: how operators transform constants, and the axes of GRU outputs."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gru_jax.interop.onnx.file import MAX_AXES, TENSOR_DTYPES
from gru_jax.stack import Merge


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A constant array; with ``repeated``, broadcast along axes of unknown sizes."""

    array: np.ndarray
    repeated: bool = False

    @functools.cached_property
    def is_zero(self) -> bool:
        """Whether all elements are 0."""
        return not self.array.any()

    @property
    def was_examined(self) -> bool:
        """Whether :attr:`is_zero` is known."""
        return "is_zero" in self.__dict__


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A value that is neither constant nor a GRU output.

    Attributes:
        origin: the input or node that it comes from, for error messages.
        is_dynamic: whether it depends on an input of the model.
        sizes: the sizes of an input's axes, 0 for a dynamic one; empty if they are unknown.
    """

    origin: str
    is_dynamic: bool
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class GruOutputs:
    """Outputs of a GRU node, or of a forward node and a reverse node.

    Attributes:
        nodes: the indices of the nodes among the GRU nodes.
        directions: the direction of each: "forward", "reverse" or "bidirectional".
        source: the value that the nodes read.
        axes: "time", "batch", "direction", "hidden"; "features" is the last two combined.
        sizes: the sizes of the axes, None if unknown.
        merge: how two directions were combined; None if they were not.
        residual: whether ``source`` was added.
    """

    nodes: tuple[int, ...]
    directions: tuple[str, ...]
    source: Any
    axes: tuple[str, ...]
    sizes: Mapping[str, int | None]
    merge: Merge | None = None
    residual: bool = False


Value = Constant | Opaque | GruOutputs
Values = Sequence[Value | None]
Rule = Callable[[Values, Mapping[str, Any]], list[Value] | None]

ZERO = Constant(np.zeros((), np.float32), repeated=True)


def identity(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The value that the node reads."""
    del attributes
    return None if values[0] is None else [values[0]]


def dropout(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The value that the node reads, unless in training mode."""
    training = values[2] if len(values) > 2 else None
    is_off = isinstance(training, Constant) and training.array.size == 1 and training.is_zero
    return identity(values, attributes) if training is None or is_off else None


def constant(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The node's attribute."""
    del values
    ((name, value),) = attributes.items()
    if isinstance(value, Constant | Opaque):
        return [value]
    if name in ("value_float", "value_floats"):
        return [Constant(np.asarray(value, np.float32))]
    if name in ("value_int", "value_ints"):
        return [Constant(np.asarray(value, np.int64))]
    return None


def constant_of_shape(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """A repeated scalar."""
    del values
    value = attributes.get("value", ZERO)
    return (
        [Constant(value.array.reshape(()), repeated=True)] if isinstance(value, Constant) else None
    )


def expand(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The value that the node reads, repeated."""
    del attributes
    return [Constant(values[0].array, repeated=True)] if isinstance(values[0], Constant) else None


def cast(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The same constant in another dtype."""
    if not isinstance(values[0], Constant) or attributes["to"] not in TENSOR_DTYPES:
        return None
    with np.errstate(all="ignore"):
        return [
            Constant(values[0].array.astype(TENSOR_DTYPES[attributes["to"]]), values[0].repeated)
        ]


def slice_constant(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """A slice of a constant."""
    data = values[0]
    if not isinstance(data, Constant):
        return None
    starts, ends = (
        _integers("starts", 1, values, attributes),
        _integers("ends", 2, values, attributes),
    )
    axes = _integers("axes", 3, values, attributes)
    steps = _integers("steps", 4, values, attributes)
    if data.repeated and data.is_zero:
        return [ZERO]
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if data.repeated and axes != [0]:
        return None
    index = [slice(None)] * data.array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return [Constant(data.array[tuple(index)], data.repeated)]


def squeeze(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Removes axes of size 1; of GRU outputs, the axis of a single direction."""
    data, axes = values[0], _integers("axes", 1, values, attributes)
    if isinstance(data, GruOutputs) and axes is not None and len(axes) == 1:
        if data.axes[axes[0]] != "direction" or data.sizes["direction"] != 1:
            return None
        axes_left = tuple("features" if a == "hidden" else a for a in data.axes if a != "direction")
        return [dataclasses.replace(data, axes=axes_left)]
    if not isinstance(data, Constant) or (data.repeated and not data.is_zero):
        return None
    if data.repeated:
        return [ZERO]
    return [Constant(np.squeeze(data.array, None if axes is None else tuple(axes)))]


def unsqueeze(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Adds axes of size 1."""
    data, axes = values[0], _integers("axes", 1, values, attributes)
    if not isinstance(data, Constant) or axes is None or (data.repeated and axes != [0]):
        return None
    return [Constant(np.expand_dims(data.array, tuple(axes)), data.repeated)]


def transpose(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Permutes axes."""
    data, order = values[0], attributes.get("perm")
    if isinstance(data, Constant) and not data.repeated:
        return [Constant(np.transpose(data.array, order))]
    if isinstance(data, GruOutputs):
        order = range(len(data.axes))[::-1] if order is None else order
        if sorted(order) != list(range(len(data.axes))):
            raise ValueError(f"perm is {list(order)}")
        return [dataclasses.replace(data, axes=tuple(data.axes[place] for place in order))]
    return [ZERO] if isinstance(data, Constant) and data.is_zero else None


def reshape(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Of GRU outputs: combines the directions' features in one axis, and nothing else."""
    data, shape = values[0], _integers("shape", 1, values, attributes)
    if isinstance(data, Constant) and data.repeated and data.is_zero:
        return [ZERO]
    if shape is None or attributes.get("allowzero", 0):
        return None
    if isinstance(data, Constant) and not data.repeated:
        whole = [data.array.shape[at] if size == 0 else size for at, size in enumerate(shape)]
        return [Constant(data.array.reshape(whole))]
    if not isinstance(data, GruOutputs) or "hidden" not in data.axes:
        return None
    single = data.sizes["direction"] == 1
    outer_axes = tuple(axis for axis in data.axes if axis not in ("direction", "hidden"))
    if data.axes[-1] != "hidden" or not (single or data.axes[-2] == "direction"):
        return None
    merged = (*outer_axes, "features")

    def fits(place: int, axis: str) -> bool:
        same = data.axes[place] == axis
        return shape[place] in (-1, data.sizes[axis]) or (shape[place] == 0 and same)

    if len(shape) != len(merged) or shape.count(-1) > 1 or not all(map(fits, range(3), merged)):
        return None
    return [dataclasses.replace(data, axes=merged, merge=None if single else "concat")]


def concat(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Concatenates constants, or the outputs of a forward node and a reverse node."""
    constants = [value for value in values if isinstance(value, Constant)]
    if len(constants) == len(values):
        if any(value.repeated for value in constants):
            return [ZERO] if all(value.is_zero for value in constants) else None
        if len({value.array.dtype for value in constants}) > 1:
            raise TypeError("types differ")
        return [Constant(np.concatenate([value.array for value in constants], attributes["axis"]))]
    outputs = [value for value in values if isinstance(value, GruOutputs)]
    if len(outputs) != 2 or len(values) != 2 or attributes["axis"] not in (-1, 2):
        return None
    forward, backward = outputs
    if (
        forward.directions + backward.directions != ("forward", "reverse")
        or forward.source is not backward.source
        or forward.axes != backward.axes
        or forward.axes[-1] != "features"
    ):
        return None
    widths = [value.sizes["features"] for value in outputs]
    features = None if None in widths else sum(width or 0 for width in widths)
    joined = dataclasses.replace(
        forward,
        nodes=forward.nodes + backward.nodes,
        directions=forward.directions + backward.directions,
        sizes={**forward.sizes, "features": features},
        merge="concat",
    )
    return [joined]


def reduction(merge: Merge) -> Rule:
    """ReduceSum, ReduceMean or ReduceProd over the two directions."""

    def reduce(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
        data, axes = values[0], _integers("axes", 1, values, attributes)
        if not isinstance(data, GruOutputs) or "direction" not in data.axes:
            return None
        if axes is None or len(axes) != 1 or data.axes[axes[0]] != "direction":
            return None
        if attributes.get("keepdims", 1) or data.sizes["direction"] != 2:
            return None
        axes_left = tuple("features" if a == "hidden" else a for a in data.axes if a != "direction")
        sizes = {**data.sizes, "features": data.sizes["hidden"]}
        return [dataclasses.replace(data, axes=axes_left, sizes=sizes, merge=merge)]

    return reduce


def add(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Of GRU outputs and the value that their node reads: a residual connection."""
    del attributes
    for outputs, other in (values, values[::-1]):
        if (
            isinstance(outputs, GruOutputs)
            and outputs.source is other
            and isinstance(other, GruOutputs)
            and outputs.axes == other.axes
            and outputs.axes[-1] == "features"
        ):
            return [dataclasses.replace(outputs, residual=True)]
    return None


def _integers(
    name: str, place: int, values: Values, attributes: Mapping[str, Any]
) -> list[int] | None:
    """A list of integers: an attribute in older versions of an operator, an input in newer ones."""
    if name in attributes:
        numbers = attributes[name]
    else:
        value = values[place] if len(values) > place else None
        if not isinstance(value, Constant) or value.repeated or value.array.dtype.kind != "i":
            return None
        numbers = value.array.reshape(-1)
    if len(numbers) > MAX_AXES:
        raise ValueError(f"{name} has {len(numbers)} numbers, more than the limit of {MAX_AXES}")
    return [int(number) for number in numbers]


PROPAGATION_RULES: dict[str, Rule] = {
    "Add": add,
    "Cast": cast,
    "Concat": concat,
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Dropout": dropout,
    "Expand": expand,
    "Identity": identity,
    "ReduceMean": reduction("mean"),
    "ReduceProd": reduction("product"),
    "ReduceSum": reduction("sum"),
    "Reshape": reshape,
    "Slice": slice_constant,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""The outputs of each operator; a rule returns None for a case that it does not cover."""
