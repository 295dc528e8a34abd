"""What the library computes, written as NumPy loops over one sequence at a time, without JAX.

It is to be compared with the equations, not to be fast. Everything here also takes complex arrays,
so that `gradient` is exact to rounding without a derivative written by hand.
"""

from collections.abc import Callable, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]
State = tuple[np.ndarray, ...]
Step = Callable[[Weights, State, np.ndarray], State]


def unroll(
    step: Step,
    weights: Weights,
    xs: np.ndarray,
    state: State | None = None,
    *,
    lengths: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    reverse: bool = False,
) -> tuple[State, np.ndarray]:
    """Unrolls over every sequence of xs (T, *batch, D) by itself.

    The state is a tuple of arrays (*batch, H): (h,), or (h, c) for the LSTM. Returns the final
    state and the outputs (T, *batch, H).
    """
    time, *batch, _ = xs.shape
    hidden_size = weights["w_h"].shape[0]
    reset_state = initial_state(step, weights)
    if state is None:
        state = tuple(np.broadcast_to(leaf, (*batch, hidden_size)) for leaf in reset_state)
    lengths = np.full(batch, time) if lengths is None else lengths
    mask = np.ones((time, *batch), bool) if mask is None else mask
    starts = np.zeros((time, *batch), bool) if starts is None else starts

    dtype = np.result_type(np.float64, xs, *weights.values(), *state)
    ys = np.zeros((time, *batch, hidden_size), dtype)
    last = tuple(np.zeros((*batch, hidden_size), dtype) for _ in state)
    for index in np.ndindex(*batch):
        column = (slice(None), *index)
        final, ys[column] = unroll_one(
            step,
            weights,
            xs[column],
            tuple(leaf[index] for leaf in state),
            reset_state,
            length=int(lengths[index]),
            mask=mask[column],
            starts=starts[column],
            reverse=reverse,
        )
        for leaf, value in zip(last, final, strict=True):
            leaf[index] = value
    return last, ys


def unroll_one(
    step: Step,
    weights: Weights,
    xs: np.ndarray,
    state: State,
    reset_state: State,
    *,
    length: int,
    mask: np.ndarray,
    starts: np.ndarray,
    reverse: bool,
) -> tuple[State, np.ndarray]:
    """Unrolls over one sequence (T, D), which ends at `length`."""
    ys = np.zeros((len(xs), weights["w_h"].shape[0]), np.result_type(xs, *state, *weights.values()))
    for t in reversed(range(length)) if reverse else range(length):
        if (starts[t] and not reverse) or (reverse and t + 1 < length and starts[t + 1]):
            state = reset_state
        if mask[t]:
            state = step(weights, state, xs[t])
            ys[t] = state[0]
    return state, ys


def initial_state(step: Step, weights: Weights) -> State:
    """The learned initial state of one sequence, or zeros."""
    names = ("h0", "c0") if step is lstm else ("h0",)
    return tuple(weights.get(name, np.zeros(weights["w_h"].shape[0])) for name in names)


def gru_reset_after(weights: Weights, state: State, x: np.ndarray) -> State:
    """The form of cuDNN, PyTorch and Keras: r scales the recurrent term after the matmul."""
    (h,) = state
    x_r, x_z, x_n = np.split(_affine(x, weights["w_x"], weights.get("b")), 3)
    h_r, h_z, h_n = np.split(h @ weights["w_h"], 3)
    r = sigmoid(x_r + h_r)
    z = sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * (h_n + weights.get("b_hn", 0.0)))
    return ((1 - z) * n + z * h,)


def gru_reset_before(weights: Weights, state: State, x: np.ndarray) -> State:
    """Cho et al. 2014 (arXiv 1406.1078), section 2.3: r scales the state before the matmul."""
    (h,) = state
    x_r, x_z, x_n = np.split(_affine(x, weights["w_x"], weights.get("b")), 3)
    w_r, w_z, w_n = np.split(weights["w_h"], 3, axis=1)
    r = sigmoid(x_r + h @ w_r)
    z = sigmoid(x_z + h @ w_z)
    n = np.tanh(x_n + (r * h) @ w_n)
    return ((1 - z) * n + z * h,)


def lstm(weights: Weights, state: State, x: np.ndarray) -> State:
    """Gers et al. 2000, with a forget gate and without peepholes."""
    h, c = state
    i, f, g, o = np.split(_affine(x, weights["w_x"], weights.get("b")) + h @ weights["w_h"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def elman(weights: Weights, state: State, x: np.ndarray) -> State:
    """Elman 1990."""
    (h,) = state
    return (np.tanh(_affine(x, weights["w_x"], weights.get("b")) + h @ weights["w_h"]),)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gradient(
    function: Callable[[dict[str, np.ndarray]], float], arguments: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Gradient of a real function of named arrays by the complex step, exact to rounding.

    Squire and Trapp 1998, SIAM Review 40(1): f'(x) = Im f(x + ih) / h has no difference in it, so
    h can be as small as the exponent allows.
    """
    height = 1e-30
    gradients = {}
    for name, value in arguments.items():
        gradients[name] = np.zeros(value.shape)
        for index in np.ndindex(*value.shape):
            moved = value.astype(complex)
            moved[index] += 1j * height
            gradients[name][index] = np.imag(function({**arguments, name: moved})) / height
    return gradients


def _affine(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    return x @ w if b is None else x @ w + b
