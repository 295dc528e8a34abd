"""Converts one GRU node to cells and back. Every attribute is interpreted or rejected."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import jax.numpy as jnp
import numpy as np

from gru_jax.cells import GRUParams
from gru_jax.cells.gru import Reset
from gru_jax.interop.gate_layout import GateLayout, has_bias, make_gru, split_biases, sum_biases
from gru_jax.interop.onnx.graph import Node
from gru_jax.interop.onnx.rules import Constant, Opaque, Value

LAYOUT = GateLayout("zrn", gates_first=True)
ACTIVATIONS = ["sigmoid", "tanh"]
MAX_SHARED_BYTES = 2**24

Fail: TypeAlias = Callable[[str], NoReturn]


def check_shared(nodes: Sequence[Node]) -> None:
    """ValueError if nodes share weights of which separate copies would not fit in memory."""
    weights = [node.input(place) for node in nodes for place in (1, 2)]
    arrays = [value.array for value in weights if isinstance(value, Constant)]
    needed = sum(array.nbytes for array in arrays)
    if needed > MAX_SHARED_BYTES + sum({id(array): array.nbytes for array in arrays}.values()):
        raise ValueError(
            f"its GRU nodes have weights in common; separate copies would need {needed} bytes"
        )


def load_cells(node: Node, *, learned_h0: bool) -> list[GRUParams]:
    """Loads a cell for each direction of a node.

    Args:
        node: a node of a :class:`~gru_jax.interop.onnx.graph.Graph`.
        learned_h0: whether a constant initial state of zeros becomes a learned ``h0``.

    Raises:
        ValueError: weights that are missing, not constant or of wrong shapes, or an attribute that
            is not supported.
    """

    def fail(fault: str) -> NoReturn:
        raise ValueError(f"GRU {node.name!r} {fault}")

    attributes = dict(node.attributes)
    direction = attributes.pop("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        fail(f"has direction {direction!r}")
    directions = 2 if direction == "bidirectional" else 1
    after = attributes.pop("linear_before_reset", 0)
    layout = attributes.pop("layout", 0)
    if not isinstance(after, int) or layout not in (0, 1):
        fail(f"has linear_before_reset {after!r} and layout {layout!r}")
    activations = [_text(name) for name in _list(attributes.pop("activations", []))]
    if [name.lower() for name in activations] not in ([], ACTIVATIONS * directions):
        fail(f"has activations {activations}; each direction must have Sigmoid and Tanh")
    hidden = attributes.pop("hidden_size", None)
    for name, value in attributes.items():
        if name not in ("activation_alpha", "activation_beta") or len(_list(value)):
            fail(f"has the attribute {name}, which is not supported")

    w_x = _weights(node.input(1), "W", 3, fail)
    w_h = _weights(node.input(2), "R", 3, fail)
    size = w_h.shape[2]
    arrays: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {
        "W": (w_x, (directions, 3 * size, w_x.shape[2])),
        "R": (w_h, (directions, 3 * size, size)),
    }
    bias = None
    if node.input(3) is not None:
        bias = _weights(node.input(3), "B", 2, fail)
        arrays["B"] = (bias, (directions, 6 * size))
    for name, (array, expected) in arrays.items():
        if array.shape != expected:
            fail(f"has {name} of shape {array.shape}, expected {expected}")
        if array.dtype != w_x.dtype:
            fail(f"has {name} of {array.dtype}, but W of {w_x.dtype}")
    if hidden not in (None, size) or not w_h.size or not w_x.size:
        fail(f"has hidden_size {hidden!r}, W of shape {w_x.shape} and R of shape {w_h.shape}")
    if len(node.inputs) > 6:
        fail(f"has {len(node.inputs)} inputs, expected 6 at most")
    _check_lengths(node, fail)
    h0 = None
    state = node.input(5)
    if isinstance(state, Opaque) and not state.is_dynamic:
        fail(f"takes its initial_h from {state.origin}, which is not a constant")
    if isinstance(state, Constant) and (learned_h0 or not state.is_zero):
        array = state.array.swapaxes(0, 1) if layout and state.array.ndim == 3 else state.array
        h0 = _initial_state(array, directions, size, fail).astype(w_h.dtype)
    return [
        _cell(
            w_x[at],
            w_h[at],
            None if bias is None else bias[at],
            None if h0 is None else h0[at],
            reset="after" if after else "before",
        )
        for at in range(directions)
    ]


def dump_cells(cells: Sequence[GRUParams], dtype: str) -> dict[str, np.ndarray]:
    """The inputs W, R and, if there are biases, B of a node with one cell for each direction."""
    arrays = {
        "W": [LAYOUT.from_canonical(np.asarray(cell.w_x, dtype)) for cell in cells],
        "R": [LAYOUT.from_canonical(np.asarray(cell.w_h, dtype)) for cell in cells],
    }
    if any(map(has_bias, cells)):
        arrays["B"] = [
            np.concatenate([LAYOUT.from_canonical(bias) for bias in split_biases(cell)])
            for cell in cells
        ]
    return {name: np.stack(by_direction) for name, by_direction in arrays.items()}


def _cell(
    w: np.ndarray, r: np.ndarray, b: np.ndarray | None, h0: np.ndarray | None, *, reset: Reset
) -> GRUParams:
    """The parameters of one direction, from W (3H, D), R (3H, H) and B (6H,)."""
    bias = b_hn = None
    if b is not None:
        input_bias, recurrent_bias = map(LAYOUT.to_canonical, np.split(b, 2))
        bias, b_hn = sum_biases(input_bias, recurrent_bias, reset)
    w_x, w_h = map(LAYOUT.to_canonical, (w, r))
    params = make_gru(w_x, w_h, bias, b_hn, reset=reset)
    return params if h0 is None else dataclasses.replace(params, h0=jnp.asarray(h0))


def _weights(value: Value | None, name: str, rank: int, fail: Fail) -> np.ndarray:
    if value is None:
        fail(f"has no {name}")
    if not isinstance(value, Constant) or value.repeated:
        origin = value.origin if isinstance(value, Opaque) else "another node"
        fail(
            f"takes {name} from {origin}, which is no constant; if it is an input of the model, "
            "pass its value in weights"
        )
    array = value.array
    if array.ndim != rank or not jnp.issubdtype(array.dtype, jnp.floating):
        fail(f"has {name} of shape {array.shape} and {array.dtype}, expected {rank} axes of floats")
    return array


def _check_lengths(node: Node, fail: Fail) -> None:
    value = node.input(4)
    if isinstance(value, Opaque) and not value.is_dynamic:
        fail(f"takes its sequence_lens from {value.origin}, which does not depend on an input")
    if isinstance(value, Constant):
        steps = node.outputs.sizes["time"]
        if steps is None or (value.array != steps).any():
            fail(
                "has a constant sequence_lens that is not the number of steps; lengths are an "
                "argument of gru_jax.unroll, not a parameter"
            )


def _initial_state(array: np.ndarray, directions: int, hidden: int, fail: Fail) -> np.ndarray:
    """The learned initial state (directions, H); initial_h must be the same for all sequences."""
    batch = array.shape[1] if array.ndim == 3 else 1
    try:
        array = np.broadcast_to(array, (directions, batch, hidden))
    except ValueError:
        fail(f"has initial_h of shape {array.shape}, expected {(directions, 'batch', hidden)}")
    if not batch or (array != array[:, :1]).any():
        fail("has a constant initial_h that differs between sequences, which is not supported")
    return array[:, 0]


def _list(value: Any) -> list[Any]:
    return list(value) if hasattr(value, "__len__") else [value]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
