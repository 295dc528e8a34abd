"""Measurements of conversions: each library, each kind of model, in both directions."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from experiments.interop.frameworks import FRAMEWORKS, Framework
from experiments.interop.models import Model, largest_error, run_gru_jax

Direction = Literal["load", "dump"]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        name: name of the converter in `gru_jax.interop`.
        variant: the kind of model.
        direction: "load" converts weights into gru_jax, "dump" from gru_jax.
        dtype: dtype of weights and inputs.
        measure: `(seed)` to the largest absolute difference in outputs and last states.
    """

    name: str
    variant: str
    direction: Direction
    dtype: str
    measure: Callable[[int], float]


def all_measurements() -> list[Measurement]:
    """The measurements of all installed libraries."""
    return [
        measurement
        for framework in FRAMEWORKS.values()
        if framework.version
        for variant, model in framework.models.items()
        for measurement in measurements_of(framework, variant, model)
    ]


def measurements_of(
    framework: Framework, variant: str, model: Model
) -> tuple[Measurement, Measurement]:
    """The measurements of a kind of model in both directions."""
    load = functools.partial(load_error, framework, model)
    dump = functools.partial(dump_error, framework, model)
    return (
        Measurement(framework.name, variant, "load", model.dtype, load),
        Measurement(framework.name, variant, "dump", model.dtype, dump),
    )


def load_error(framework: Framework, model: Model, seed: int) -> float:
    """Loads random weights into gru_jax and returns the largest difference."""
    with jax.enable_x64(model.dtype == "float64"):
        weights = framework.init(model, np.random.default_rng(seed))
        params = converter(framework).load(weights, **framework.options(model))
        inputs = model.sample_inputs(seed)
        return largest_error(run_gru_jax(params, *inputs), framework.run(model, weights, *inputs))


def dump_error(framework: Framework, model: Model, seed: int) -> float:
    """Dumps random parameters to the library and returns the largest difference."""
    with jax.enable_x64(model.dtype == "float64"):
        params = expressible(framework, model.init(seed))
        inputs = model.sample_inputs(seed)
        weights = dump(framework, model, params)
        return largest_error(run_gru_jax(params, *inputs), framework.run(model, weights, *inputs))


def dump(framework: Framework, model: Model, params: Any) -> Any:
    """Parameters as the library's weights."""
    options = {"cell": model.layers == 0} if framework.name == "torch" else {}
    return converter(framework).dump(params, **options)


def expressible(framework: Framework, params: Any) -> Any:
    """The parameters without the bias that `nnx.GRUCell` lacks."""
    if framework.name != "nnx":
        return params
    return jax.tree.map(
        lambda cell: dataclasses.replace(cell, b_hn=None),
        params,
        is_leaf=lambda node: hasattr(node, "b_hn"),
    )


def converter(framework: Framework) -> Any:
    """The converter, a module of `gru_jax.interop`."""
    return importlib.import_module(f"gru_jax.interop.{framework.name}")
