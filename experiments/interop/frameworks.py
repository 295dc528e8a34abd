"""The other libraries: their random weights, and their outputs for given inputs."""

# The libraries come with the extra `interop`; those that are not installed are skipped.
# pyright: reportMissingImports=false

import contextlib
import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.interop import onnx_models
from experiments.interop.models import Model, Result, uniform


@dataclasses.dataclass(frozen=True)
class Framework:
    """A library, which need not be installed.

    Attributes:
        name: name of its converter in `gru_jax.interop`.
        distribution: name of the distribution that contains it.
        models: the models that it can express, by name.
        init: `(model, rng)` to random weights in the form that its `load` takes.
        run: `(model, weights, xs, states)` to the library's outputs and last states, with weights
            in the form that its `load` takes and its `dump` returns.
        options: `(model)` to the keyword arguments of `load` that do not follow from weights.
    """

    name: str
    distribution: str
    models: dict[str, Model]
    init: Callable[[Model, np.random.Generator], Any]
    run: Callable[[Model, Any, np.ndarray, list[np.ndarray]], Result]
    options: Callable[[Model], dict[str, Any]] = lambda model: {}

    @property
    def version(self) -> str | None:
        """The installed version; None where it is not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None


CELLS = {
    "cell": Model(),
    "2 layers": Model(layers=2),
    "2 layers, both directions": Model(layers=2, directions=2),
}
BIDIRECTIONAL = Model(layers=1, directions=2)


def torch() -> Framework:
    """torch.nn.GRU and torch.nn.GRUCell."""

    def build(model: Model) -> Any:
        import torch

        options = {"bias": model.bias, "dtype": getattr(torch, model.dtype)}
        if model.layers == 0:
            return torch.nn.GRUCell(model.input, model.hidden, **options)
        both = model.directions == 2
        return torch.nn.GRU(model.input, model.hidden, model.layers, bidirectional=both, **options)

    def init(model: Model, rng: np.random.Generator) -> dict[str, Any]:
        import torch

        weights = build(model).state_dict().items()
        return {
            name: torch.from_numpy(uniform(rng, tuple(each.shape), model.dtype))
            for name, each in weights
        }

    def run(model: Model, weights: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        import torch

        module = build(model)
        module.load_state_dict(weights, strict=True)
        with torch.no_grad():
            if model.layers:
                ys, last = module(torch.from_numpy(xs), torch.from_numpy(np.stack(states)))
                return ys.numpy(), list(last.numpy())
            state, ys = torch.from_numpy(states[0]), []
            for x in torch.from_numpy(xs):
                state = module(x, state)
                ys.append(state.numpy())
        return np.stack(ys), [ys[-1]]

    models = {
        **{name.replace("cell", "GRUCell"): model for name, model in CELLS.items()},
        "1 layer, both directions": BIDIRECTIONAL,
        "GRUCell without bias": Model(bias=False),
        "2 layers, both directions, without bias": Model(layers=2, directions=2, bias=False),
        "2 layers, both directions, float64": Model(layers=2, directions=2, dtype="float64"),
    }
    return Framework("torch", "torch", models, init, run)


def keras() -> Framework:
    """keras.layers.GRU and Bidirectional, on the JAX backend."""
    merge_modes = {"concat": "concat", "sum": "sum", "mean": "ave", "product": "mul"}

    def build(model: Model) -> list[Any]:
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras

        layers = []
        for index in range(max(1, model.layers)):
            layer = keras.layers.GRU(
                model.hidden,
                reset_after=model.reset == "after",
                use_bias=model.bias,
                return_sequences=True,
                return_state=True,
                dtype=model.dtype,
            )
            if model.directions == 2:
                mode = merge_modes[model.merge]
                layer = keras.layers.Bidirectional(layer, merge_mode=mode, dtype=model.dtype)
            layer.build((None, None, model.input_size_of(index)))
            layers.append(layer)
        return layers

    def init(model: Model, rng: np.random.Generator) -> Any:
        with promotion():
            lists = [
                [uniform(rng, each.shape, model.dtype) for each in layer.get_weights()]
                for layer in build(model)
            ]
        return lists if model.layers else lists[0]

    def run(model: Model, weights: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        last = []
        remaining = iter(states)
        with promotion():
            ys = np.swapaxes(xs, 0, 1)
            for layer, layer_weights in zip(
                build(model), weights if model.layers else [weights], strict=True
            ):
                layer.set_weights(layer_weights)
                initial = [jnp.asarray(next(remaining)) for _ in range(model.directions)]
                ys, *layer_last = layer(ys, initial_state=initial)
                last += map(np.asarray, layer_last)
        return np.swapaxes(np.asarray(ys), 0, 1), last

    def options(model: Model) -> dict[str, Any]:
        return {"reset_after": model.reset == "after", "merge": model.merge}

    models = {
        f"{name}, reset_{reset}": dataclasses.replace(model, reset=reset)
        for name, model in {
            "GRU": Model(),
            "GRU without bias": Model(bias=False),
            "Bidirectional": BIDIRECTIONAL,
            "2 Bidirectional, added": Model(layers=2, directions=2, merge="sum"),
        }.items()
        for reset in ("after", "before")
    }
    return Framework("keras", "keras", models, init, run, options)


def onnx() -> Framework:
    """The operator GRU of ONNX in onnxruntime, in float32."""
    models = {
        f"{name}, linear_before_reset={int(reset == 'after')}": dataclasses.replace(
            model, reset=reset
        )
        for name, model in {
            "forward": Model(),
            "forward without bias": Model(bias=False),
            "bidirectional": BIDIRECTIONAL,
            "2 nodes": Model(layers=2),
            "3 nodes, bidirectional": Model(layers=3, directions=2),
            "2 nodes, bidirectional, added": Model(layers=2, directions=2, merge="sum"),
        }.items()
        for reset in ("after", "before")
    }
    return Framework("onnx", "onnxruntime", models, onnx_models.init, onnx_models.run)


def linen() -> Framework:
    """flax.linen.GRUCell."""

    def build(model: Model) -> Any:
        from flax import linen

        return linen.GRUCell(model.hidden, param_dtype=jnp.dtype(model.dtype))

    def init(model: Model, rng: np.random.Generator) -> Any:
        state, x = jnp.zeros((1, model.hidden)), jnp.zeros((1, model.input))
        weights = jax.eval_shape(build(model).init, jax.random.key(0), state, x)["params"]
        return jax.tree.map(lambda leaf: uniform(rng, leaf.shape, model.dtype), weights)

    def step(model: Model, weights: Any, h: jax.Array, x: jax.Array) -> Any:
        return build(model).apply({"params": weights}, h, x)[0]

    return framework_of_cells("linen", "flax", "after", init, step)


def nnx() -> Framework:
    """flax.nnx.GRUCell."""

    def build(model: Model) -> Any:
        from flax import nnx

        dtype = jnp.dtype(model.dtype)
        return nnx.GRUCell(model.input, model.hidden, param_dtype=dtype, rngs=nnx.Rngs(0))

    def init(model: Model, rng: np.random.Generator) -> Any:
        from flax import nnx

        cell = build(model)
        state = nnx.state(cell, nnx.Param)
        nnx.update(cell, jax.tree.map(lambda leaf: uniform(rng, leaf.shape, model.dtype), state))
        return cell

    def step(model: Model, weights: Any, h: jax.Array, x: jax.Array) -> Any:
        from flax import nnx

        cell = weights
        if isinstance(weights, dict):
            cell = build(model)
            nnx.update(cell, weights)
        return cell(h, x)[0]

    return framework_of_cells("nnx", "flax", "after", init, step)


def haiku() -> Framework:
    """haiku.GRU."""

    def build(model: Model) -> Any:
        import haiku

        return haiku.without_apply_rng(
            haiku.transform(lambda x, h: haiku.GRU(model.hidden)(x, h)[1])
        )

    def init(model: Model, rng: np.random.Generator) -> Any:
        x, h = jnp.zeros((1, model.input)), jnp.zeros((1, model.hidden))
        weights = jax.eval_shape(build(model).init, jax.random.key(0), x, h)
        return jax.tree.map(lambda leaf: uniform(rng, leaf.shape, model.dtype), weights)

    def step(model: Model, weights: Any, h: jax.Array, x: jax.Array) -> Any:
        return build(model).apply(weights, x, h)

    return framework_of_cells("haiku", "dm-haiku", "before", init, step)


def equinox() -> Framework:
    """equinox.nn.GRUCell."""

    def init(model: Model, rng: np.random.Generator) -> Any:
        import equinox

        key, dtype = jax.random.key(0), jnp.dtype(model.dtype)
        cell = equinox.nn.GRUCell(model.input, model.hidden, model.bias, dtype, key=key)
        return jax.tree.map(lambda leaf: jnp.asarray(uniform(rng, leaf.shape, model.dtype)), cell)

    def step(model: Model, weights: Any, h: jax.Array, x: jax.Array) -> Any:
        return jax.vmap(weights)(x, h)

    framework = framework_of_cells("equinox", "equinox", "after", init, step)
    return dataclasses.replace(
        framework, models=framework.models | {"cell without bias": Model(bias=False)}
    )


def framework_of_cells(
    name: str,
    distribution: str,
    reset: Any,
    init_cell: Callable[[Model, np.random.Generator], Any],
    step: Callable[[Model, Any, jax.Array, jax.Array], Any],
) -> Framework:
    """A framework with cells only; its layers are `weights[layer][direction]`."""

    def sized(model: Model, layer: int) -> Model:
        return dataclasses.replace(model, input=model.input_size_of(layer))

    def init(model: Model, rng: np.random.Generator) -> Any:
        with promotion():
            if model.layers == 0:
                return init_cell(model, rng)
            return tuple(
                tuple(init_cell(sized(model, layer), rng) for _ in range(model.directions))
                for layer in range(model.layers)
            )

    def run(model: Model, weights: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        remaining, last = iter(states), []
        with promotion():
            for index, layer in enumerate(weights if model.layers else ((weights,),)):
                outputs = []
                for direction, cell in enumerate(layer):
                    order = slice(None, None, -1 if direction else 1)
                    step_cell = jax.jit(functools.partial(step, sized(model, index), cell))
                    h, ys = jnp.asarray(next(remaining)), []
                    for x in xs[order]:
                        h = step_cell(h, jnp.asarray(x))
                        ys.append(np.asarray(h))
                    last.append(ys[-1])
                    outputs.append(np.stack(ys)[order])
                xs = np.concatenate(outputs, axis=-1)
        return xs, last

    models = CELLS | {
        "2 layers, both directions, float64": Model(layers=2, directions=2, dtype="float64")
    }
    models = {each: dataclasses.replace(model, reset=reset) for each, model in models.items()}
    return Framework(name, distribution, models, init, run)


@contextlib.contextmanager
def promotion() -> Iterator[None]:
    """Other libraries rely on JAX's implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


FRAMEWORKS = {make.__name__: make() for make in (torch, keras, onnx, linen, nnx, haiku, equinox)}
