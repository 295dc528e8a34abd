"""What the table shows: each framework, each kind of model, each direction, and how to measure."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from experiments.interop.frameworks import FRAMEWORKS, Framework
from experiments.interop.models import Model, largest_error, run_ours

Direction = Literal["load", "dump"]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One row.

    Attributes:
        name: of the module in `gru_jax.interop`.
        variant: which kind of model.
        direction: "load" measures ours with weights of theirs, "dump" theirs with ours.
        dtype: of weights and inputs.
        measure: `(seed)` to the largest absolute difference in outputs and last states.
    """

    name: str
    variant: str
    direction: Direction
    dtype: str
    measure: Callable[[int], float]


def all_pairs() -> list[Pair]:
    """The rows of all frameworks that are installed."""
    return [
        pair
        for framework in FRAMEWORKS.values()
        if framework.version
        for variant, model in framework.models.items()
        for pair in both_ways(framework, variant, model)
    ]


def both_ways(framework: Framework, variant: str, model: Model) -> tuple[Pair, Pair]:
    """The two rows of a kind of model."""
    load = functools.partial(error_of_load, framework, model)
    dump = functools.partial(error_of_dump, framework, model)
    return (
        Pair(framework.name, variant, "load", model.dtype, load),
        Pair(framework.name, variant, "dump", model.dtype, dump),
    )


def error_of_load(framework: Framework, model: Model, seed: int) -> float:
    """Random weights of theirs, in ours: the largest difference."""
    with jax.enable_x64(model.dtype == "float64"):
        theirs = framework.draw(model, np.random.default_rng(seed))
        ours = converter(framework).load(theirs, **framework.options(model))
        feed = model.draw_inputs(seed)
        return largest_error(run_ours(ours, *feed), framework.run(model, theirs, *feed))


def error_of_dump(framework: Framework, model: Model, seed: int) -> float:
    """Random weights of ours, in theirs: the largest difference."""
    with jax.enable_x64(model.dtype == "float64"):
        ours = expressible(framework, model.draw(seed))
        feed = model.draw_inputs(seed)
        theirs = dump(framework, model, ours)
        return largest_error(run_ours(ours, *feed), framework.run(model, theirs, *feed))


def dump(framework: Framework, model: Model, ours: Any) -> Any:
    """Our parameters as the framework's."""
    options = {"cell": model.layers == 0} if framework.name == "torch" else {}
    return converter(framework).dump(ours, **options)


def expressible(framework: Framework, ours: Any) -> Any:
    """Ours without the bias that `nnx.GRUCell` lacks."""
    if framework.name != "nnx":
        return ours
    return jax.tree.map(
        lambda cell: dataclasses.replace(cell, b_hn=None),
        ours,
        is_leaf=lambda node: hasattr(node, "b_hn"),
    )


def converter(framework: Framework) -> Any:
    """The module of `gru_jax.interop`."""
    return importlib.import_module(f"gru_jax.interop.{framework.name}")
