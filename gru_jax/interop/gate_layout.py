"""Memory layouts of a GRU's weights: gate order, transposes, signs and biases.

The canonical layout is that of :class:`gru_jax.GRUParams`. Each converter describes its framework's
layout with a :class:`GateLayout` and shares the rest of this module.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.stack import Merge, Stack

Arrays: TypeAlias = Mapping[str, Any]

BLOCK = 128
ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class GateLayout:
    """Layout of the gates in a packed array; the default is the canonical one.

    Attributes:
        order: the order in which the gates are concatenated: r (reset), z (update), n (new).
        gates_first: whether the gates are concatenated along the first axis, (3H, D), instead of
            the last, (D, 3H).
        inverted_update_gate: whether z weights the new value. In the canonical layout it weights
            the old state. Because 1 - sigmoid(a) = sigmoid(-a), the weights and biases of z change
            sign.
    """

    order: str = "rzn"
    gates_first: bool = False
    inverted_update_gate: bool = False

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """Converts a packed array, (D, 3H), (3H, D) or (3H,), to a new one in canonical layout."""
        packed = array.T if self.gates_first else array
        return _join(self._by_gate(packed, self.order), "rzn")

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_canonical`."""
        packed = _join(self._by_gate(array, "rzn"), self.order)
        return np.ascontiguousarray(packed.T) if self.gates_first else packed

    def _by_gate(self, packed: np.ndarray, order: str, axis: int = -1) -> dict[str, np.ndarray]:
        gates = dict(zip(order, np.split(packed, 3, axis=axis), strict=True))
        return gates | {"z": -gates["z"]} if self.inverted_update_gate else gates


def _join(gates: Mapping[str, np.ndarray], order: str) -> np.ndarray:
    arrays = [gates[gate] for gate in order]
    *outer, width = arrays[0].shape
    if not outer:
        return np.concatenate(arrays)
    # Of transposed arrays np.concatenate would make a transposed one, which JAX copies once more.
    # Blocks of columns, because whole ones would be transposed with a cache miss for each element.
    out = _aligned_empty((*outer, len(arrays) * width), arrays[0].dtype)
    for index, array in enumerate(arrays):
        gate = out[..., index * width : (index + 1) * width]
        for at in range(0, width, BLOCK):
            gate[..., at : at + BLOCK] = array[..., at : at + BLOCK]
    return out


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array aligned as XLA aligns its own, so that JAX copies it faster or not at all."""
    size = math.prod(shape) * dtype.itemsize
    content = np.empty(size + ALIGNMENT, np.uint8)
    begin = -content.ctypes.data % ALIGNMENT
    return content[begin : begin + size].view(dtype).reshape(shape)


def sum_biases(
    bias: np.ndarray, recurrent_bias: np.ndarray, reset: Reset
) -> tuple[np.ndarray, np.ndarray | None]:
    """Converts an input bias and a recurrent bias, canonical (3H,) each, to ``b`` and ``b_hn``.

    The two biases of a gate are only ever added, so ``b`` holds their sum. The exception is the
    new gate with ``reset="after"``, whose recurrent bias is ``b_hn`` in `r * (h U_n + b_hn)`.
    """
    if reset == "before":
        return bias + recurrent_bias, None
    rest, b_hn = np.split(recurrent_bias, [2 * len(bias) // 3])
    return bias + np.concatenate([rest, np.zeros_like(b_hn)]), b_hn


def split_biases(params: GRUParams) -> tuple[np.ndarray, np.ndarray]:
    """Returns an input bias and a recurrent bias, (3H,) each; a missing bias is zero."""
    hidden, dtype = params.hidden_size, np.asarray(params.w_h).dtype
    bias = np.zeros(3 * hidden, dtype) if params.b is None else np.asarray(params.b)
    recurrent_bias = np.zeros_like(bias)
    if params.b_hn is not None:
        recurrent_bias[2 * hidden :] = np.asarray(params.b_hn)
    return bias, recurrent_bias


def has_bias(params: GRUParams) -> bool:
    """Whether the model has any bias."""
    return params.b is not None or params.b_hn is not None


def make_gru(
    w_x: np.ndarray,
    w_h: np.ndarray,
    b: np.ndarray | None = None,
    b_hn: np.ndarray | None = None,
    *,
    reset: Reset = "after",
) -> GRUParams:
    """Parameters from arrays in the canonical layout; float64 is kept only under x64.

    Args:
        w_x, w_h, b, b_hn: new arrays. On a CPU JAX takes over their memory instead of copying it.
        reset: see :class:`gru_jax.GRUParams`.
    """
    # All at once: a call for each takes longer, and jnp.asarray compiles.
    params = GRUParams(*jax.device_put((w_x, w_h, b, b_hn)), reset=reset)
    params.validate()
    return params


def as_array(name: str, value: Any, shape: Sequence[int | None], meaning: str) -> np.ndarray:
    """Converts a weight of any framework to a NumPy array.

    Args:
        name: the weight's name in error messages.
        value: an array, a tensor or a variable.
        shape: the expected shape; None allows any positive size.
        meaning: the names of the axes, for error messages.

    Raises:
        TypeError: the dtype is not a floating point dtype.
        ValueError: the shape differs.
    """
    array = _to_numpy(value)
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must have a floating point dtype, got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        got > 0 and want in (None, got) for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected ({expected}): {meaning}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        # A PyTorch tensor. Its numpy() does not support bfloat16.
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            return tensor.float().numpy().astype(jnp.bfloat16)
        return tensor.numpy()
    return np.asarray(value)


def load_matrices(
    layout: GateLayout, named_x: tuple[str, Any], named_h: tuple[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Converts a framework's packed matrices, each given with its name, to the canonical layout.

    The recurrent matrix determines the hidden size.

    Raises:
        TypeError, ValueError: as :func:`as_array`.
    """
    first = layout.gates_first
    axes = "(3 * hidden, {})" if first else "({}, 3 * hidden)"
    name_h, w_h = named_h
    w_h = as_array(name_h, w_h, (None, None), axes.format("hidden"))
    hidden = w_h.shape[1] if first else w_h.shape[0]
    hint = "; four gates are an LSTM's" if w_h.size == 4 * hidden**2 else ""

    def take(name: str, value: Any, size: int | None, axis: str) -> np.ndarray:
        shape = (3 * hidden, size) if first else (size, 3 * hidden)
        return layout.to_canonical(as_array(name, value, shape, axes.format(axis) + hint))

    w_h = take(name_h, w_h, hidden, "hidden")
    return take(*named_x, None, "input"), w_h


def load_bias(layout: GateLayout, name: str, value: Any, hidden: int) -> np.ndarray:
    """Converts a framework's packed bias to the canonical layout; errors as :func:`as_array`."""
    return layout.to_canonical(as_array(name, value, (3 * hidden,), "(3 * hidden,)"))


def unwrap_params(source: Any, marker: str, what: str) -> Arrays:
    """Returns the mapping that has the key ``marker``, out of nested mappings with one item each.

    Raises:
        TypeError: ``source`` is not a mapping.
        ValueError: no mapping has the key.
    """
    found = source
    while isinstance(found, Mapping) and marker not in found and len(found) == 1:
        (found,) = found.values()
    if not isinstance(source, Mapping):
        raise TypeError(f"expected {what}, a mapping; got {type(source).__name__}")
    if not isinstance(found, Mapping) or marker not in found:
        raise ValueError(f"expected {what}, with {marker!r}; got {', '.join(map(repr, source))}")
    return found


def check_keys(names: Sequence[str], found: Any, what: str) -> None:
    """TypeError or ValueError unless ``found`` is a mapping with exactly these keys."""
    if not isinstance(found, Mapping):
        raise TypeError(f"expected {what}, a mapping; got {type(found).__name__}")
    if set(found) != set(names):
        raise ValueError(
            f"expected {what}, with {', '.join(map(repr, names))}; "
            f"got {', '.join(map(repr, found)) or 'nothing'}"
        )


def check_unknown_options(layer: Any, kind: type, known: Set[str]) -> None:
    """ValueError if an argument of a layer's constructor differs from its default.

    So an option that a later version of the framework adds is not ignored.

    Args:
        layer: the layer, with the arguments of its constructor as attributes.
        kind: the class whose constructor has the options.
        known: the arguments that are checked elsewhere, or need no check.
    """
    # Of the class itself, NNX's metaclass hides the signature.
    options = list(inspect.signature(kind.__init__).parameters.items())[1:]
    for name, parameter in options:
        if name not in known and getattr(layer, name, parameter.default) is not parameter.default:
            raise ValueError(
                f"{name} of {type(layer).__name__} is not supported, except as its default"
            )


def check_gru(params: Any, framework: str, resets: Sequence[Reset]) -> None:
    """Raises unless ``framework``'s parameters can express the function of ``params``."""
    if type(params) is not GRUParams:
        raise TypeError(
            f"{framework}: expected gru_jax.GRUParams or a Stack of them, got {class_name(params)}"
        )
    params.validate()
    if params.reset not in resets:
        raise ValueError(
            f'{framework} supports reset="{resets[0]}" only; params have reset="{params.reset}"'
        )
    if params.h0 is not None:
        raise ValueError(
            f"{framework} has no learned initial state: dump dataclasses.replace(params, h0=None) "
            "and pass h0 to the framework as the initial state"
        )


def class_name(params: object) -> str:
    """The class of ``params`` for an error that expects exactly GRUParams."""
    note = ", a subclass, which may compute another function"
    return type(params).__name__ + note * isinstance(params, GRUParams)


def check_stack(stack: Stack, framework: str, merges: Sequence[Merge] = ("concat",)) -> None:
    """Raises unless ``framework`` supports how a stack combines its layers and directions."""
    validate_stack(stack)
    if stack.residual:
        raise ValueError(f"{framework} has no residual connections; the stack has residual=True")
    if stack.merge not in merges and any(len(layer) == 2 for layer in stack.layers):
        raise ValueError(
            f"{framework} supports merge={' or '.join(map(repr, merges))}; "
            f'the stack has merge="{stack.merge}"'
        )


def load_cells(load_cell: Callable[[Any], GRUParams], source: Any) -> GRUParams | Stack:
    """Loads one cell, or a stack from ``source[layer]`` or ``source[layer][direction]``."""
    if not isinstance(source, (tuple, list)):
        return load_cell(source)
    layers = [layer if isinstance(layer, (tuple, list)) else (layer,) for layer in source]
    return validate_stack(Stack(tuple(tuple(map(load_cell, layer)) for layer in layers)))


def validate_stack(stack: Stack) -> Stack:
    """Returns the stack; ValueError unless each layer's input size is the previous output size."""
    stack.validate()
    if not stack.layers:
        raise ValueError("a stack must have at least one layer")
    width = getattr(stack.layers[0][0], "input_size", None)
    for index, layer in enumerate(stack.layers):
        cells: Any = layer
        for cell in cells:
            if not hasattr(cell, "hidden_size"):
                raise TypeError(f"expected cells of gru_jax, got {type(cell).__name__}")
            if cell.input_size != width:
                before = "its first cell reads" if index == 0 else f"layer {index - 1} gives"
                raise ValueError(
                    f"layer {index} reads {cell.input_size} features, {before} {width}"
                )
        widths = [cell.hidden_size for cell in cells]
        if stack.merge != "concat" and len(set(widths)) > 1:
            raise ValueError(
                f"merge={stack.merge!r} needs directions of one hidden size; layer {index} has "
                f"{widths}"
            )
        width = sum(widths) if stack.merge == "concat" else widths[0]
    return stack


def dump_cells(dump_cell: Callable[[Any], Any], params: Any, framework: str) -> Any:
    """Dumps one cell, or a stack as ``[layer][direction]``."""
    if not isinstance(params, Stack):
        return dump_cell(params)
    check_stack(params, framework)
    return tuple(tuple(map(dump_cell, layer)) for layer in params.layers)
