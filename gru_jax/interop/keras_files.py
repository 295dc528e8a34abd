"""Keras' files: the layers of the model, and the weights of each."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gru_jax.interop.archive import Archive
from gru_jax.interop.files import parse_json, read_bytes
from gru_jax.interop.hdf5 import parse_hdf5

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MODELS = ("Sequential", "Functional", "Model")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A serialised Keras layer.

    Attributes:
        kind: the name of its class.
        config: the result of its ``get_config``.
        group: the prefix of its weights in the file.
    """

    kind: str
    config: Mapping[str, Any]
    group: str = ""


def read_file(path: str | os.PathLike[str]) -> tuple[dict[str, Layer], dict[str, np.ndarray]]:
    """The layers of a file by name, and its arrays by group.

    Raises:
        ValueError: the file is not valid, or its model has a mask.
    """
    suffix = os.path.splitext(path)[1]
    if suffix == ".h5":
        arrays = parse_hdf5(read_bytes(path))
        return dict(_layers_of_weights(arrays)), arrays
    if suffix != ".keras":
        raise ValueError("expected a name ending in .keras or .weights.h5")
    archive = Archive(read_bytes(path))
    model = parse_json(archive.read(CONFIG), f"its {CONFIG}")
    weights = archive.read(WEIGHTS)
    try:
        layers = dict(_layers_of_model(model["class_name"], model["config"], ""))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"its {CONFIG} does not describe a Keras 3 model: {error!r}") from error
    for name, layer in layers.items():
        if layer.kind == "Masking" or layer.config.get("mask_zero"):
            raise ValueError(
                f"the layer {name} ({layer.kind}) masks steps, which is not supported: load the "
                "weights from a .weights.h5 file and pass the mask to gru_jax.unroll"
            )
    return layers, parse_hdf5(weights)


def class_of(description: Mapping[str, Any]) -> str:
    """The class of a serialised layer, with its module unless it is one of Keras' layers."""
    module, name = description.get("module", "keras.layers"), description["class_name"]
    return name if module == "keras.layers" else f"{module}.{name}"


def snake_case(kind: str) -> str:
    """The group name that Keras derives from a class name."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(kinds: list[str]) -> list[str]:
    """The group names of a list of layers: repeated names are numbered from the second on."""
    names, seen = [], {}
    for kind in map(snake_case, kinds):
        names.append(f"{kind}_{seen[kind]}" if seen.setdefault(kind, 0) else kind)
        seen[kind] += 1
    return names


def _layers_of_model(
    kind: str, config: Mapping[str, Any], group: str, outer: str = ""
) -> Iterator[tuple[str, Layer]]:
    """The layers of a model, including those of nested models."""
    if kind not in MODELS:
        raise ValueError(
            f"a model of class {kind} does not record its layers; expected one of "
            f"{', '.join(MODELS)}"
        )
    layers = config["layers"]
    names = numbered([layer["class_name"] for layer in layers])
    for layer, group_name in zip(layers, names, strict=True):
        inner, at = layer["config"], f"{group}layers/{group_name}/"
        name = outer + str(inner.get("name", layer.get("name")))
        if layer["class_name"] in MODELS:
            yield from _layers_of_model(layer["class_name"], inner, at, f"{name}/")
        else:
            yield name, Layer(class_of(layer), inner, at)


def _layers_of_weights(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, Layer]]:
    """The recurrent layers inferred from group names, with Keras' defaults for their options."""
    cells: dict[str, list[str]] = {}
    for path in arrays:
        found = re.fullmatch(
            r"((?:layers/[^/]+/)+)(?:(?:forward|backward)_layer/)?cell/(?:cells/[^/]+/)?vars/0",
            path,
        )
        if found:
            cells.setdefault(found[1], []).append(path.removesuffix("vars/0"))
    for group, places in cells.items():
        name = "/".join(group.split("/")[1:-1:2])
        places = sorted(places, key=_place_in_list)
        configs = [{"use_bias": f"{place}vars/2" in arrays} for place in places]
        if places == [f"{group}backward_layer/cell/", f"{group}forward_layer/cell/"]:
            backward, forward = ({"class_name": "GRU", "config": config} for config in configs)
            yield (
                name,
                Layer("Bidirectional", {"layer": forward, "backward_layer": backward}, group),
            )
        elif places == [f"{group}cell/"]:
            yield name, Layer("GRU", configs[0], group)
        elif all(place.startswith(f"{group}cell/cells/") for place in places):
            within = [{"class_name": "GRUCell", "config": config} for config in configs]
            cell = {"class_name": "StackedRNNCells", "config": {"cells": within}}
            yield name, Layer("RNN", {"cell": cell}, group)


def _place_in_list(path: str) -> tuple[str, int]:
    """Sorts gru_cell before gru_cell_1, and gru_cell_2 before gru_cell_10."""
    stem, _, number = path.rstrip("/").rpartition("_")
    return (stem, int(number)) if number.isdigit() else (path.rstrip("/"), 0)
