"""How a GRU's weights lie in memory, here and elsewhere: order of gates, transposes, signs, biases.

The converters share this description, so that each says no more than where its framework puts what.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.stack import Merge, Stack

Arrays: TypeAlias = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class GateLayout:
    """Where the gates stand in a packed array; the default is ours.

    Attributes:
        order: the gates as they lie side by side: r (reset), z (update), n (new).
        gates_first: whether they lie along the first axis, (3H, D), and not the last, (D, 3H).
        inverted_update_gate: whether the update gate is the share of the new value and not, as ours,
            of the old state. 1 - sigmoid(a) = sigmoid(-a): all that is summed for z changes sign.
    """

    order: str = "rzn"
    gates_first: bool = False
    inverted_update_gate: bool = False

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """A packed array, (D, 3H), (3H, D) or (3H,), as (D, 3H) or (3H,) in our order."""
        packed = array.T if self.gates_first else array
        return _join(self._by_gate(packed, self.order), "rzn")

    def from_canonical(self, array: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_canonical`."""
        packed = _join(self._by_gate(array, "rzn"), self.order)
        return np.ascontiguousarray(packed.T) if self.gates_first else packed

    def _by_gate(self, packed: np.ndarray, order: str) -> dict[str, np.ndarray]:
        gates = dict(zip(order, np.split(packed, 3, axis=-1), strict=True))
        return gates | {"z": -gates["z"]} if self.inverted_update_gate else gates


def _join(gates: Mapping[str, np.ndarray], order: str) -> np.ndarray:
    return np.concatenate([gates[gate] for gate in order], axis=-1)


def sum_biases(
    bias: np.ndarray, recurrent_bias: np.ndarray, reset: Reset
) -> tuple[np.ndarray, np.ndarray | None]:
    """The biases of inputs and states, (3H,) each in our order, as our `b` and `b_hn`.

    They are added to each other in every gate but one: with ``reset="after"`` the new gate's
    recurrent bias stands within `r * (h U_n + b_hn)`.
    """
    if reset == "before":
        return bias + recurrent_bias, None
    rest, b_hn = np.split(recurrent_bias, [2 * len(bias) // 3])
    return bias + np.concatenate([rest, np.zeros_like(b_hn)]), b_hn


def split_biases(params: GRUParams) -> tuple[np.ndarray, np.ndarray]:
    """Our biases as one of inputs and one of states, (3H,) each; what is missing is zero."""
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
    """Our parameters from arrays in our layout; float64 stays so under x64."""
    biases = [None if bias is None else jnp.asarray(bias) for bias in (b, b_hn)]
    params = GRUParams(jnp.asarray(w_x), jnp.asarray(w_h), *biases, reset=reset)
    params.validate()
    return params


def as_array(name: str, value: Any, shape: Sequence[int | None], meaning: str) -> np.ndarray:
    """A weight of any framework as an array of NumPy.

    Args:
        name: what to call it in an error.
        value: an array, a tensor, a variable.
        shape: what is expected; None where any positive size will do.
        meaning: the names of the axes, for the error.

    Raises:
        TypeError: it holds no floating point numbers.
        ValueError: it has another shape.
    """
    array = _to_numpy(value)
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold floating point numbers, got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        got > 0 and want in (None, got) for got, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {array.shape}, expected ({wanted}): {meaning}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        # A tensor of PyTorch, which knows no NumPy array of bfloat16.
        tensor = value.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            return tensor.float().numpy().astype(jnp.bfloat16)
        return tensor.numpy()
    return np.asarray(value)


def load_matrices(
    layout: GateLayout, named_x: tuple[str, Any], named_h: tuple[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """A framework's packed matrices, each with its name, in our layout.

    The recurrent matrix says how many units there are.

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
    """A framework's packed bias in our layout; errors as :func:`as_array`."""
    return layout.to_canonical(as_array(name, value, (3 * hidden,), "(3 * hidden,)"))


def unwrap_params(theirs: Any, marker: str, what: str) -> Arrays:
    """The mapping with a key, out of mappings that hold nothing but it.

    Raises:
        TypeError: there is no mapping.
        ValueError: none of them has the key.
    """
    found = theirs
    while isinstance(found, Mapping) and marker not in found and len(found) == 1:
        (found,) = found.values()
    if not isinstance(theirs, Mapping):
        raise TypeError(f"expected {what}, a mapping; got {type(theirs).__name__}")
    if not isinstance(found, Mapping) or marker not in found:
        raise ValueError(f"expected {what}, with {marker!r}; got {', '.join(map(repr, theirs))}")
    return found


def check_keys(names: Sequence[str], found: Any, what: str) -> None:
    """TypeError or ValueError unless ``found`` is a mapping of these names and no others."""
    if not isinstance(found, Mapping):
        raise TypeError(f"expected {what}, a mapping; got {type(found).__name__}")
    if set(found) != set(names):
        raise ValueError(
            f"expected {what}, with {', '.join(map(repr, names))}; "
            f"got {', '.join(map(repr, found)) or 'nothing'}"
        )


def check_gru(ours: Any, framework: str, resets: Sequence[Reset]) -> None:
    """Raises unless ``ours`` is a GRU whose function ``framework``'s parameters can express."""
    if not isinstance(ours, GRUParams):
        raise TypeError(f"{framework}: expected gru_jax.GRUParams, got {type(ours).__name__}")
    ours.validate()
    if ours.reset not in resets:
        raise ValueError(
            f'{framework} computes reset="{resets[0]}" only, these parameters obey '
            f'reset="{ours.reset}"'
        )
    if ours.h0 is not None:
        raise ValueError(
            f"{framework} has no learned initial state; hand h0 to it as a state, and dump "
            "dataclasses.replace(params, h0=None)"
        )


def check_stack(stack: Stack, framework: str, merges: Sequence[Merge] = ("concat",)) -> None:
    """Raises unless how a stack's parts are joined is what ``framework`` does, too."""
    validate_stack(stack)
    if stack.residual:
        raise ValueError(f"{framework} has no residual layers")
    if stack.merge not in merges and any(len(layer) == 2 for layer in stack.layers):
        raise ValueError(
            f'{framework} joins directions by {", ".join(merges)}; this stack by "{stack.merge}"'
        )


def load_cells(load_cell: Callable[[Any], GRUParams], theirs: Any) -> GRUParams | Stack:
    """One cell, or a stack of ``theirs[layer][direction]``."""
    if not isinstance(theirs, (tuple, list)):
        return load_cell(theirs)
    layers = [layer if isinstance(layer, (tuple, list)) else (layer,) for layer in theirs]
    return validate_stack(Stack(tuple(tuple(map(load_cell, layer)) for layer in layers)))


def validate_stack(stack: Stack) -> Stack:
    """The stack; ValueError unless each layer reads as many features as the last one gives."""
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
                came = "there are" if index == 0 else f"layer {index - 1} gives"
                raise ValueError(f"layer {index} reads {cell.input_size} features, {came} {width}")
        widths = [cell.hidden_size for cell in cells]
        if stack.merge != "concat" and len(set(widths)) > 1:
            raise ValueError(f"layer {index} joins {widths} units by {stack.merge}")
        width = sum(widths) if stack.merge == "concat" else widths[0]
    return stack


def dump_cells(dump_cell: Callable[[Any], Any], ours: Any, framework: str) -> Any:
    """One cell's parameters, or those of a stack as ``[layer][direction]``."""
    if not isinstance(ours, Stack):
        return dump_cell(ours)
    check_stack(ours, framework)
    return tuple(tuple(map(dump_cell, layer)) for layer in ours.layers)
