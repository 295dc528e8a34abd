"""How parameters print: dtypes and shapes, not elements."""

import dataclasses
import re
from typing import Any

SHORT_KINDS = {"float": "f", "bfloat": "bf", "int": "i", "uint": "u", "complex": "c"}


def repr_with_shapes(self: Any) -> str:
    """A dataclass as ``GRUParams(w_x=f32[8,48], b=None, reset='after')``."""
    fields = dataclasses.fields(self)
    values = (f"{field.name}={_show(getattr(self, field.name))}" for field in fields)
    return f"{type(self).__name__}({', '.join(values)})"


def _show(value: Any) -> str:
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        opening, closing = "[]" if isinstance(value, list) else "()"
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{opening}{', '.join(map(_show, value))}{comma}{closing}"
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return repr(value)
    kind, bits = re.fullmatch(r"([a-z]+)(\d*).*", str(value.dtype)).groups()  # pyright: ignore
    return f"{SHORT_KINDS.get(kind, kind)}{bits}[{','.join(map(str, value.shape))}]"
