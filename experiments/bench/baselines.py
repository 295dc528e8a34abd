"""GRUs of other libraries with our weights, each behind the same two calls."""

# The baselines come with the extra `bench`; those that are not installed are skipped.
# pyright: reportMissingImports=false

import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gru_jax
from experiments.bench.shapes import ProblemSize


@dataclasses.dataclass(frozen=True)
class Problem:
    """Weights and inputs that every implementation gets, in float32.

    Attributes:
        size: B, T, D and H.
        params: a GRU's parameters as NumPy arrays.
        xs: inputs (T, B, D).
        weights: (T, B, H); the loss is `sum(weights * outputs)`.
    """

    size: ProblemSize
    params: gru_jax.GRUParams
    xs: np.ndarray
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Implementation:
    """An implementation that is ready to be timed.

    Attributes:
        forward: computes the outputs (T, B, H) or (B, T, H) and waits for them.
        gradient: computes the gradients with respect to parameters and inputs and waits for them;
            None if the implementation has no gradient.
        outputs: the outputs as (T, B, H).
        input_gradient: the gradient with respect to the inputs as (T, B, D).
        params: the parameters of :func:`gru_jax.unroll` that give the same function.
    """

    forward: Callable[[], Any]
    gradient: Callable[[], Any] | None
    outputs: Callable[[], np.ndarray]
    input_gradient: Callable[[], np.ndarray] | None
    params: gru_jax.GRUParams


def make_problem(size: ProblemSize, seed: int = 0) -> Problem:
    """Samples weights and inputs; `b_hn`, which nnx.GRUCell lacks, is the only zero bias."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = gru_jax.init(keys[0], size.input, size.hidden, bias_init="torch")
    params = dataclasses.replace(params, b_hn=jnp.zeros((size.hidden,)))
    xs = jax.random.normal(keys[1], (size.time, size.batch, size.input))
    weights = jax.random.normal(keys[2], (size.time, size.batch, size.hidden))
    return Problem(size, jax.tree.map(np.asarray, params), np.asarray(xs), np.asarray(weights))


def from_jax(
    problem: Problem,
    apply: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    *,
    time_major: bool = True,
    reset_before: bool = False,
) -> Implementation:
    """Makes an implementation from a function `(params, xs) -> ys` that JAX can trace."""

    def arrange(array: np.ndarray) -> jax.Array:
        return jnp.asarray(array if time_major else array.swapaxes(0, 1))

    xs, weights = arrange(problem.xs), arrange(problem.weights)
    params = jax.tree.map(jnp.asarray, params)
    run = jax.jit(apply)
    differentiate = jax.jit(
        jax.grad(lambda params, xs: jnp.sum(apply(params, xs) * weights), argnums=(0, 1))
    )

    def to_time_major(array: jax.Array) -> np.ndarray:
        return np.asarray(array if time_major else array.swapaxes(0, 1))

    return Implementation(
        forward=lambda: jax.block_until_ready(run(params, xs)),
        gradient=lambda: jax.block_until_ready(differentiate(params, xs)),
        outputs=lambda: to_time_major(run(params, xs)),
        input_gradient=lambda: to_time_major(differentiate(params, xs)[1]),
        params=as_reset_before(problem.params) if reset_before else problem.params,
    )


def as_reset_before(params: gru_jax.GRUParams) -> gru_jax.GRUParams:
    """The same weights in the equation of Cho et al. 2014, which Haiku implements."""
    return dataclasses.replace(params, reset="before", b_hn=None)


def own_implementation(problem: Problem, **options: Any) -> Implementation:
    """:func:`gru_jax.unroll` with the given options."""
    return from_jax(
        problem, lambda params, xs: gru_jax.unroll(params, xs, **options)[1], problem.params
    )


def linen(problem: Problem) -> Implementation:
    """flax.linen.RNN(flax.linen.GRUCell)."""
    import flax.linen as nn

    w_x, w_h, b, b_hn = _gates(problem.params)
    model = nn.RNN(nn.GRUCell(features=problem.size.hidden), time_major=True)
    cell: dict[str, Any] = {
        f"i{gate}": {"kernel": w_x[gate], "bias": b[gate]} for gate in ("r", "z", "n")
    }
    cell |= {f"h{gate}": {"kernel": w_h[gate]} for gate in ("r", "z", "n")}
    cell["hn"]["bias"] = b_hn
    return from_jax(
        problem,
        lambda params, xs: jnp.asarray(model.apply({"params": {"cell": params}}, xs)),
        cell,
    )


def nnx(problem: Problem) -> Implementation:
    """flax.nnx.RNN(flax.nnx.GRUCell); the cell has no bias `b_hn`."""
    from flax import nnx

    rnn = nnx.RNN(nnx_cell(problem.params), time_major=True)
    graphdef, weights, rest = nnx.split(rnn, nnx.Param, ...)
    h0 = jnp.zeros((problem.size.batch, problem.size.hidden))

    def unroll(weights: Any, xs: jax.Array) -> Any:
        return nnx.merge(graphdef, weights, rest)(xs, initial_carry=h0)

    return from_jax(problem, unroll, weights)


def nnx_cell(params: gru_jax.GRUParams) -> Any:
    """flax.nnx.GRUCell with our weights."""
    from flax import nnx

    cell: Any = nnx.GRUCell(params.w_x.shape[0], params.w_h.shape[0], rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...] = jnp.asarray(params.w_x)
    cell.dense_i.bias[...] = jnp.asarray(params.b)
    cell.dense_h.kernel[...] = jnp.asarray(params.w_h)
    return cell


def haiku(problem: Problem) -> Implementation:
    """haiku.dynamic_unroll(haiku.GRU), which applies the reset gate before the matmul."""
    import haiku as hk

    params = problem.params
    hidden = problem.size.hidden

    def unroll(xs: jax.Array) -> Any:
        core = hk.GRU(hidden)
        return hk.dynamic_unroll(core, xs, core.initial_state(problem.size.batch))[0]

    def as_haiku(array: Any) -> np.ndarray:
        # Haiku's update gate weights the new value: 1 - sigmoid(a) = sigmoid(-a).
        r, z, n = np.split(np.asarray(array), 3, axis=-1)
        return np.concatenate([-z, r, n], axis=-1)

    model = hk.without_apply_rng(hk.transform(unroll))
    weights = {"w_i": params.w_x, "w_h": params.w_h, "b": params.b}
    weights = {"gru": {name: as_haiku(array) for name, array in weights.items()}}
    return from_jax(problem, model.apply, weights, reset_before=True)


def equinox(problem: Problem) -> Implementation:
    """equinox.nn.GRUCell under vmap and scan, as its documentation shows."""
    import equinox as eqx

    params = problem.params
    cell = eqx.nn.GRUCell(problem.size.input, problem.size.hidden, key=jax.random.key(0))
    cell = eqx.tree_at(
        lambda cell: (cell.weight_ih, cell.weight_hh, cell.bias, cell.bias_n),
        cell,
        tuple(map(jnp.asarray, (params.w_x.T, params.w_h.T, params.b, params.b_hn))),
    )
    arrays, static = eqx.partition(cell, eqx.is_array)

    def unroll(arrays: Any, xs: jax.Array) -> jax.Array:
        cell: Any = eqx.combine(arrays, static)

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = jax.vmap(cell)(x, h)
            return h, h

        h0 = jnp.zeros((problem.size.batch, problem.size.hidden))
        return lax.scan(step, h0, xs)[1]

    return from_jax(problem, unroll, arrays)


def keras_jax(problem: Problem) -> Implementation:
    """keras.layers.GRU on the JAX backend."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    if keras.backend.backend() != "jax":
        raise RuntimeError(f"keras runs on {keras.backend.backend()}; set KERAS_BACKEND=jax")
    w_x, w_h, b, b_hn = _gates(problem.params)
    order = ("z", "r", "n")
    recurrent_bias = {"z": np.zeros_like(b_hn), "r": np.zeros_like(b_hn), "n": b_hn}
    layer = keras.layers.GRU(problem.size.hidden, return_sequences=True, reset_after=True)
    layer.build((problem.size.batch, problem.size.time, problem.size.input))
    layer.set_weights(
        [
            np.concatenate([w_x[gate] for gate in order], axis=-1),
            np.concatenate([w_h[gate] for gate in order], axis=-1),
            np.stack(
                [
                    np.concatenate([b[gate] for gate in order]),
                    np.concatenate([recurrent_bias[gate] for gate in order]),
                ]
            ),
        ]
    )
    others = [variable.value for variable in layer.non_trainable_variables]
    return from_jax(
        problem,
        lambda weights, xs: layer.stateless_call(weights, others, xs)[0],
        [variable.value for variable in layer.trainable_variables],
        time_major=False,
    )


def torch(problem: Problem) -> Implementation:
    """torch.nn.GRU, eager, on the CPU or on a GPU where there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = problem.params
    module = torch.nn.GRU(problem.size.input, problem.size.hidden).to(device)
    hidden_bias = np.zeros_like(params.b)
    hidden_bias[2 * problem.size.hidden :] = params.b_hn
    named = {
        "weight_ih_l0": params.w_x.T,
        "weight_hh_l0": params.w_h.T,
        "bias_ih_l0": params.b,
        "bias_hh_l0": hidden_bias,
    }
    module.load_state_dict({name: torch.tensor(np.array(array)) for name, array in named.items()})
    xs = torch.tensor(problem.xs, device=device, requires_grad=True)
    weights = torch.tensor(problem.weights, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward() -> Any:
        with torch.no_grad():
            ys = module(xs)[0]
        wait()
        return ys

    def gradient() -> Any:
        module.zero_grad(set_to_none=True)
        xs.grad = None
        (module(xs)[0] * weights).sum().backward()
        wait()
        return xs.grad

    return Implementation(
        forward,
        gradient,
        outputs=lambda: forward().cpu().numpy(),
        input_gradient=lambda: gradient().cpu().numpy(),
        params=params,
    )


def onnxruntime(problem: Problem) -> Implementation:
    """The operator GRU of onnxruntime, which has no gradient."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    w_x, w_h, b, b_hn = _gates(problem.params)
    order = ("z", "r", "n")
    zero = np.zeros_like(b_hn)
    bias = [b[gate] for gate in order] + [zero, zero, b_hn]
    initial = {
        "W": np.concatenate([w_x[gate].T for gate in order])[None],
        "R": np.concatenate([w_h[gate].T for gate in order])[None],
        "B": np.concatenate(bias)[None],
    }
    node = helper.make_node(
        "GRU",
        ["X", "W", "R", "B"],
        ["Y"],
        hidden_size=problem.size.hidden,
        linear_before_reset=1,
    )
    time, batch, inputs = problem.xs.shape
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "gru",
        [helper.make_tensor_value_info("X", float32, [time, batch, inputs])],
        [helper.make_tensor_value_info("Y", float32, [time, 1, batch, problem.size.hidden])],
        [numpy_helper.from_array(np.array(array), name) for name, array in initial.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def forward() -> Any:
        return session.run(None, {"X": problem.xs})[0]

    return Implementation(
        forward,
        gradient=None,
        outputs=lambda: forward()[:, 0],
        input_gradient=None,
        params=problem.params,
    )


BASELINES: dict[str, tuple[str, Callable[[Problem], Implementation]]] = {
    "torch": ("torch", torch),
    "onnxruntime": ("onnxruntime", onnxruntime),
    "linen": ("flax", linen),
    "nnx": ("flax", nnx),
    "haiku": ("dm-haiku", haiku),
    "equinox": ("equinox", equinox),
    "keras-jax": ("keras", keras_jax),
}
"""By name, the distribution that a baseline comes from and the function that makes it."""


def installed_baselines() -> dict[str, str]:
    """The baselines that are installed, each with its version."""
    versions = {}
    for name, (distribution, _) in BASELINES.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _gates(params: gru_jax.GRUParams) -> tuple[dict, dict, dict, np.ndarray]:
    """The parameters by gate."""

    def by_gate(array: Any) -> dict[str, np.ndarray]:
        return dict(zip("rzn", np.split(np.asarray(array), 3, axis=-1), strict=True))

    return by_gate(params.w_x), by_gate(params.w_h), by_gate(params.b), np.asarray(params.b_hn)
