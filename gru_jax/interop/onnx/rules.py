"""What operators between GRU nodes do to constants, and to the axes of outputs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from gru_jax.interop.onnx.file import TENSOR_DTYPES

Merge = Literal["concat", "sum", "mean", "product"]


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A constant; where ``repeated``, along axes of any sizes."""

    array: np.ndarray
    repeated: bool = False

    @property
    def is_zero(self) -> bool:
        """Whether every number is 0."""
        return not self.array.any()


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque:
    """A value that is not followed.

    Attributes:
        by: what it is made by.
        is_dynamic: whether it depends on an input of the model.
        sizes: of its axes, as an input says them, 0 for any; empty where nothing does.
    """

    by: str
    is_dynamic: bool
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class GruOutputs:
    """GruOutputs of a GRU node, or of one that reads forward and one that reads backward.

    Attributes:
        nodes: their places among the GRU nodes.
        directions: "forward", "reverse" or "bidirectional", of each.
        source: what they read.
        axes: "time", "batch", "direction", "hidden"; "features" for the last two in one.
        sizes: of the axes, None where the model does not say.
        merge: how two directions became one, where they did.
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
    """What it reads."""
    del attributes
    return None if values[0] is None else [values[0]]


def dropout(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """What it reads, unless in training."""
    training = values[2] if len(values) > 2 else None
    if training is None or (isinstance(training, Constant) and training.is_zero):
        return identity(values, attributes)
    return None


def constant(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Its attribute."""
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
    """One number, over and over."""
    del values
    value = attributes.get("value", ZERO)
    return (
        [Constant(value.array.reshape(()), repeated=True)] if isinstance(value, Constant) else None
    )


def expand(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """What it reads, over and over."""
    del attributes
    return [Constant(values[0].array, repeated=True)] if isinstance(values[0], Constant) else None


def cast(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """The same numbers in another type."""
    if not isinstance(values[0], Constant) or attributes["to"] not in TENSOR_DTYPES:
        return None
    with np.errstate(all="ignore"):
        return [
            Constant(values[0].array.astype(TENSOR_DTYPES[attributes["to"]]), values[0].repeated)
        ]


def cut(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Slice: a part of a constant."""
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
    """Axes of size 1 away; of outputs that of a single direction."""
    data, axes = values[0], _integers("axes", 1, values, attributes)
    if isinstance(data, GruOutputs) and axes is not None and len(axes) == 1:
        if data.axes[axes[0]] != "direction" or data.sizes["direction"] != 1:
            return None
        kept = tuple("features" if a == "hidden" else a for a in data.axes if a != "direction")
        return [dataclasses.replace(data, axes=kept)]
    if not isinstance(data, Constant) or (data.repeated and not data.is_zero):
        return None
    if data.repeated:
        return [ZERO]
    return [Constant(np.squeeze(data.array, None if axes is None else tuple(axes)))]


def unsqueeze(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Axes of size 1 more."""
    data, axes = values[0], _integers("axes", 1, values, attributes)
    if not isinstance(data, Constant) or axes is None or (data.repeated and axes != [0]):
        return None
    return [Constant(np.expand_dims(data.array, tuple(axes)), data.repeated)]


def transpose(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Axes in another order."""
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
    """Of outputs: both directions' features in one axis, and nothing else."""
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
    wanted = tuple(axis for axis in data.axes if axis not in ("direction", "hidden"))
    if data.axes[-1] != "hidden" or not (single or data.axes[-2] == "direction"):
        return None
    merged = (*wanted, "features")

    def fits(place: int, axis: str) -> bool:
        same = data.axes[place] == axis
        return shape[place] in (-1, data.sizes[axis]) or (shape[place] == 0 and same)

    if len(shape) != len(merged) or shape.count(-1) > 1 or not all(map(fits, range(3), merged)):
        return None
    return [dataclasses.replace(data, axes=merged, merge=None if single else "concat")]


def concat(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Constants side by side, or the outputs of a forward and a backward node."""
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
    """ReduceSum and the like: two directions become one."""

    def reduce(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
        data, axes = values[0], _integers("axes", 1, values, attributes)
        if not isinstance(data, GruOutputs) or "direction" not in data.axes:
            return None
        if axes is None or len(axes) != 1 or data.axes[axes[0]] != "direction":
            return None
        if attributes.get("keepdims", 1) or data.sizes["direction"] != 2:
            return None
        kept = tuple("features" if a == "hidden" else a for a in data.axes if a != "direction")
        sizes = {**data.sizes, "features": data.sizes["hidden"]}
        return [dataclasses.replace(data, axes=kept, sizes=sizes, merge=merge)]

    return reduce


def add(values: Values, attributes: Mapping[str, Any]) -> list[Value] | None:
    """Of outputs and what their node has read: a residual connection."""
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
    """A list of integers: an attribute in older versions of an operator, an input in newer."""
    if name in attributes:
        return [int(number) for number in attributes[name]]
    value = values[place] if len(values) > place else None
    if not isinstance(value, Constant) or value.repeated or value.array.dtype.kind != "i":
        return None
    return value.array.reshape(-1).tolist()


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
    "Slice": cut,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""By operator, what its outputs are; None for what is not followed."""
