"""PyTorch: `torch.nn.GRU` and `torch.nn.GRUCell`, as modules, state dicts and files."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.interop.files import (
    FileError,
    file_errors,
    import_optional,
    is_exactly,
    is_path,
    read_bytes,
    read_safetensors,
)
from gru_jax.interop.gate_layout import (
    GateLayout,
    check_gru,
    check_stack,
    check_unknown_options,
    has_bias,
    load_bias,
    load_matrices,
    make_gru,
    split_biases,
    sum_biases,
    validate_stack,
)
from gru_jax.interop.torch_pickle import read_torch_file
from gru_jax.stack import Stack

LAYOUT = GateLayout("rzn", gates_first=True)

KNOWN_OPTIONS = frozenset(
    {
        *("mode", "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"),
        *("bidirectional", "proj_size", "device", "dtype"),
    }
)
"""Arguments of a module that its weights show, or that do not change what it computes."""

MAX_SHARED_BYTES = 16 << 20
"""Tensors may share elements, as long as they have no more bytes than this or than the file."""


def load(source: Any, *, prefix: str = "") -> GRUParams | Stack:
    """Loads parameters from PyTorch.

    ``bias_ih`` and ``bias_hh`` are summed in the reset and update gates, where PyTorch only adds
    them; all other weights are unchanged. Dropout and ``batch_first`` are not parameters: pass
    dropout to :func:`gru_jax.unroll_stack`, whose inputs are time-major.

    Args:
        source: a ``torch.nn.GRU`` or ``torch.nn.GRUCell``; a state dict of tensors or arrays; or
            the path of a file with a state dict, .safetensors or as ``torch.save`` writes it
            (.pt, .pth), for which PyTorch is not needed.
        prefix: the GRU's prefix in a larger state dict or module, such as "encoder.gru.".

    Returns:
        GRUParams for one layer in one direction, a Stack for more.

    Raises:
        FileError: the file cannot be read or holds no GRU; a ValueError that names the file.
        TypeError: a module of another class; a subclass counts as another.
        ValueError: a weight is missing, unknown or of a wrong shape, as with an LSTM or
            ``proj_size``; or the module has an option that is not known.
    """
    if is_path(source):
        with file_errors(source):
            return load(_read(source, prefix), prefix=prefix)
    if isinstance(source, Mapping):
        return _load_state_dict(source, prefix)
    kind = type(source).__name__
    if not hasattr(source, "state_dict"):
        raise TypeError(f"expected a torch module, a state dict or a path, got {kind}")
    module = _submodule(source, prefix)
    if module is not None and not is_exactly(module, "torch.nn", "GRU", "GRUCell"):
        raise TypeError(
            f"expected exactly a torch.nn.GRU or torch.nn.GRUCell, got {type(module).__name__}"
        )
    if module is not None:
        library = import_optional("torch").nn
        kind = library.RNNBase if type(module) is library.GRU else library.GRUCell
        check_unknown_options(module, kind, KNOWN_OPTIONS)
    return _load_state_dict(source.state_dict(), prefix)


def dump(
    params: GRUParams | Stack, *, prefix: str = "", cell: bool = False, tensors: bool = True
) -> dict[str, Any]:
    """Converts parameters to a PyTorch state dict, for ``load_state_dict(strict=True)``.

    If any cell has a bias, the missing biases become zeros.

    Args:
        params: a GRU with ``reset="after"``, or a stack of them.
        prefix: prepended to each name.
        cell: use the names of ``torch.nn.GRUCell`` instead of those of ``torch.nn.GRU``.
        tensors: if False, the values are NumPy arrays, as ``safetensors.numpy.save_file`` takes
            them, and torch is not needed.

    Raises:
        TypeError: ``params`` is not a GRUParams or a Stack of them.
        ValueError: a feature that PyTorch lacks: ``reset="before"``, a learned initial state,
            ``residual=True``, a ``merge`` other than ``"concat"``, layers of different sizes;
            ``cell=True`` for a stack.
        ImportError: ``tensors=True`` and torch is not installed.
    """
    layers: Any = ((params,),)
    if isinstance(params, Stack):
        if cell:
            raise ValueError("cell=True needs a single cell, got a stack")
        check_stack(params, "torch")
        layers = params.layers
    cells = [each for layer in layers for each in layer]
    for each in cells:
        check_gru(each, "torch", ["after"])
    if len(set(map(len, layers))) > 1 or len({each.hidden_size for each in cells}) > 1:
        raise ValueError(
            "all layers of torch.nn.GRU have the same directions and hidden size; these differ"
        )
    biased = any(map(has_bias, cells))
    named = {}
    for index, layer in enumerate(layers):
        for each, ending in zip(layer, ("", "_reverse"), strict=False):
            suffix = "" if cell else f"_l{index}{ending}"
            named |= {
                f"{prefix}weight_ih{suffix}": LAYOUT.from_canonical(np.asarray(each.w_x)),
                f"{prefix}weight_hh{suffix}": LAYOUT.from_canonical(np.asarray(each.w_h)),
            }
            if biased:
                bias, recurrent_bias = map(LAYOUT.from_canonical, split_biases(each))
                named |= {f"{prefix}bias_ih{suffix}": bias}
                named |= {f"{prefix}bias_hh{suffix}": recurrent_bias}
    return {name: _tensor(array) for name, array in named.items()} if tensors else named


def _submodule(module: Any, prefix: str) -> Any:
    """The module whose weights have the prefix; None if there is none."""
    try:
        return module.get_submodule(prefix.removesuffix(".")) if prefix else module
    except AttributeError:
        return None


def _load_state_dict(state_dict: Mapping[str, Any], prefix: str) -> GRUParams | Stack:
    found = {
        str(name).removeprefix(prefix): value
        for name, value in state_dict.items()
        if str(name).startswith(prefix)
    }
    if "weight_ih" in found:
        params = _pop_cell(found, "")
        _check_consumed(found, prefix)
        return params
    if "weight_ih_l0" not in found:
        raise ValueError(_missing_gru_message(state_dict, prefix))
    endings = ("", "_reverse") if "weight_ih_l0_reverse" in found else ("",)
    layers = []
    while f"weight_ih_l{len(layers)}" in found:
        layers.append(tuple(_pop_cell(found, f"_l{len(layers)}{ending}") for ending in endings))
    _check_consumed(found, prefix)
    stack = validate_stack(Stack(tuple(layers)))
    return layers[0][0] if len(layers) == len(endings) == 1 else stack


def _pop_cell(found: dict[str, Any], suffix: str) -> GRUParams:
    """Removes one cell's weights from the mapping and returns the cell."""

    def pop(name: str) -> tuple[str, Any]:
        name += suffix
        if name not in found:
            raise ValueError(f"the weight {name} is missing")
        return name, found.pop(name)

    w_x, w_h = load_matrices(LAYOUT, pop("weight_ih"), pop("weight_hh"))
    if not {f"bias_ih{suffix}", f"bias_hh{suffix}"} & set(found):
        return make_gru(w_x, w_h)
    bias, recurrent_bias = (
        load_bias(LAYOUT, *pop(name), len(w_h)) for name in ("bias_ih", "bias_hh")
    )
    return make_gru(w_x, w_h, *sum_biases(bias, recurrent_bias, "after"))


def _check_consumed(found: Mapping[str, Any], prefix: str) -> None:
    if found:
        names = ", ".join(prefix + name for name in found)
        proj_size = "; proj_size is not supported" if any("weight_hr" in n for n in found) else ""
        raise ValueError(f"the state dict has unknown weights of the GRU: {names}{proj_size}")


def _missing_gru_message(state_dict: Mapping[str, Any], prefix: str) -> str:
    prefixes = {
        str(name).removesuffix(key)
        for name in state_dict
        for key in ("weight_ih_l0", "weight_ih")
        if str(name).endswith(key)
    }
    where = f" under {prefix!r}" if prefix else ""
    hint = f"; pass prefix={' or '.join(map(repr, sorted(prefixes)))}" if prefixes else ""
    return f"no weights of a GRU{where}: neither weight_ih_l0 nor weight_ih was found{hint}"


def _read(path: str | os.PathLike[str], prefix: str) -> Mapping[str, Any]:
    """Reads a state dict from a file."""
    suffix = os.path.splitext(path)[1]
    if suffix == ".safetensors":
        return read_safetensors(path)
    if suffix not in (".pt", ".pth"):
        raise FileError(f"{os.fspath(path)}: expected a name ending in .safetensors, .pt or .pth")
    data = read_bytes(path)
    try:
        loaded = read_torch_file(data)
    except ValueError as error:
        raise ValueError(f"no state dict that torch.save wrote: {error}") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"expected a state dict, got {type(loaded).__name__}")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, np.ndarray)}
    needed = sum(array.nbytes for name, array in tensors.items() if str(name).startswith(prefix))
    limit = max(len(data), MAX_SHARED_BYTES)
    if needed > limit:
        raise ValueError(f"its tensors claim {needed} bytes, more than the limit of {limit}")
    # Converting other values to arrays may take any time; no weight has the dtype object.
    return dict.fromkeys(loaded, np.array(None)) | tensors


def _tensor(array: np.ndarray) -> Any:
    torch = import_optional("torch")
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
