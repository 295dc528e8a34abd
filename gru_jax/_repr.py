"""What parameters and states have in common: how they print, and what is in them."""

import dataclasses
import re
from typing import Any

SHORT_KINDS = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def repr_with_shapes(self: Any) -> str:
    """A dataclass or named tuple as ``GRUParams(w_x=f32[8,48], b=None, reset='after')``."""
    is_dataclass = dataclasses.is_dataclass(self)
    names = [field.name for field in dataclasses.fields(self)] if is_dataclass else self._fields
    values = (f"{name}={_show(getattr(self, name))}" for name in names)
    return f"{type(self).__name__}({', '.join(values)})"


def has_parameter(self: Any, name: object) -> bool:
    """Whether a dataclass has a field of this name that is not None.

    Flax's ``TrainState`` asks its parameters, which are dictionaries mostly.
    """
    names = {field.name for field in dataclasses.fields(self)}
    return name in names and getattr(self, str(name)) is not None


def _show(value: Any) -> str:
    if type(value) in (tuple, list):
        opening, closing = "[]" if isinstance(value, list) else "()"
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{opening}{', '.join(map(_show, value))}{comma}{closing}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None:
        return repr(value)
    name, bits = re.findall(r"^([a-z]+)(\d*)", str(dtype))[0]
    return f"{SHORT_KINDS.get(name, name)}{bits}[{','.join(map(str, shape))}]"
