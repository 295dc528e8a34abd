"""Cells and stacks in :mod:`flax.serialization`, as dictionaries of their arrays."""

import dataclasses
from typing import Any, TypeVar

from flax import serialization

from gru_jax.cells import CELLS, Cell
from gru_jax.stack import Stack

TypeT = TypeVar("TypeT", bound=type[Cell] | type[Stack])


def register_serialization(params_type: TypeT) -> TypeT:
    """Makes :mod:`flax.serialization` save and restore a class of parameters, such as your cell.

    The library's own classes are registered by the import of :mod:`gru_jax.nn`. Each array that is
    not None is an entry under its field's name. Static fields are not saved: they, and what is
    None, have to be the same in the target.

    Args:
        params_type: a dataclass. It is returned, so that this is a decorator, too.
    """
    serialization.register_serialization_state(
        params_type, _to_state_dict, _from_state_dict, override=True
    )
    return params_type


def _arrays(params: Any) -> dict[str, Any]:
    fields = [field for field in dataclasses.fields(params) if not field.metadata.get("static")]
    values = {field.name: getattr(params, field.name) for field in fields}
    return {name: value for name, value in values.items() if value is not None}


def _to_state_dict(params: Any) -> dict[str, Any]:
    return {name: serialization.to_state_dict(value) for name, value in _arrays(params).items()}


def _from_state_dict(target: Any, state: dict[str, Any]) -> Any:
    arrays = _arrays(target)
    if arrays.keys() != state.keys():
        raise ValueError(
            f"the target {type(target).__name__} has {', '.join(arrays)}; what was saved has "
            f"{', '.join(map(str, state))}"
        )
    restored = {
        name: serialization.from_state_dict(value, state[name], name=name)
        for name, value in arrays.items()
    }
    return dataclasses.replace(target, **restored)


for _type in (*(kind.params for kind in CELLS.values()), Stack):
    register_serialization(_type)
