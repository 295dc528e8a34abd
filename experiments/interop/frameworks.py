"""The frameworks themselves: random weights of theirs, and what these make of inputs."""

# They come with an extra of their own; without it they are left out.
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
    """A live library.

    Attributes:
        name: of its module in `gru_jax.interop`.
        distribution: what has to be installed.
        models: by name, those of ours that it can express.
        draw: `(model, chance)` to random weights, as its `load` takes them.
        run: `(model, theirs, xs, states)` to what the library makes of inputs with weights as
            its `load` takes and its `dump` returns them.
        options: of `load` for a model, which weights alone do not say.
    """

    name: str
    distribution: str
    models: dict[str, Model]
    draw: Callable[[Model, np.random.Generator], Any]
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
BOTH_WAYS = Model(layers=1, directions=2)


def torch() -> Framework:
    """torch.nn.GRU and torch.nn.GRUCell."""

    def build(model: Model) -> Any:
        import torch

        options = {"bias": model.bias, "dtype": getattr(torch, model.dtype)}
        if model.layers == 0:
            return torch.nn.GRUCell(model.input, model.hidden, **options)
        both = model.directions == 2
        return torch.nn.GRU(model.input, model.hidden, model.layers, bidirectional=both, **options)

    def draw(model: Model, chance: np.random.Generator) -> dict[str, Any]:
        import torch

        weights = build(model).state_dict().items()
        return {
            name: torch.from_numpy(uniform(chance, tuple(each.shape), model.dtype))
            for name, each in weights
        }

    def run(model: Model, theirs: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        import torch

        module = build(model)
        module.load_state_dict(theirs, strict=True)
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
        "1 layer, both directions": BOTH_WAYS,
        "GRUCell without bias": Model(bias=False),
        "2 layers, both directions, without bias": Model(layers=2, directions=2, bias=False),
        "2 layers, both directions, float64": Model(layers=2, directions=2, dtype="float64"),
    }
    return Framework("torch", "torch", models, draw, run)


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
            layer.build((None, None, model.inputs_of(index)))
            layers.append(layer)
        return layers

    def draw(model: Model, chance: np.random.Generator) -> Any:
        with promotion():
            lists = [
                [uniform(chance, each.shape, model.dtype) for each in layer.get_weights()]
                for layer in build(model)
            ]
        return lists if model.layers else lists[0]

    def run(model: Model, theirs: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        last = []
        given = iter(states)
        with promotion():
            ys = np.swapaxes(xs, 0, 1)
            for layer, weights in zip(
                build(model), theirs if model.layers else [theirs], strict=True
            ):
                layer.set_weights(weights)
                initial = [jnp.asarray(next(given)) for _ in range(model.directions)]
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
            "Bidirectional": BOTH_WAYS,
            "2 Bidirectional, added": Model(layers=2, directions=2, merge="sum"),
        }.items()
        for reset in ("after", "before")
    }
    return Framework("keras", "keras", models, draw, run, options)


def onnx() -> Framework:
    """ONNX's operator GRU, as onnxruntime runs it: in float32."""
    models = {
        f"{name}, linear_before_reset={int(reset == 'after')}": dataclasses.replace(
            model, reset=reset
        )
        for name, model in {
            "forward": Model(),
            "forward without bias": Model(bias=False),
            "bidirectional": BOTH_WAYS,
            "2 nodes": Model(layers=2),
            "3 nodes, bidirectional": Model(layers=3, directions=2),
            "2 nodes, bidirectional, added": Model(layers=2, directions=2, merge="sum"),
        }.items()
        for reset in ("after", "before")
    }
    return Framework("onnx", "onnxruntime", models, onnx_models.draw, onnx_models.run)


def linen() -> Framework:
    """flax.linen.GRUCell."""

    def build(model: Model) -> Any:
        from flax import linen

        return linen.GRUCell(model.hidden, param_dtype=jnp.dtype(model.dtype))

    def draw(model: Model, chance: np.random.Generator) -> Any:
        state, x = jnp.zeros((1, model.hidden)), jnp.zeros((1, model.input))
        weights = jax.eval_shape(build(model).init, jax.random.key(0), state, x)["params"]
        return jax.tree.map(lambda leaf: uniform(chance, leaf.shape, model.dtype), weights)

    def step(model: Model, theirs: Any, h: jax.Array, x: jax.Array) -> Any:
        return build(model).apply({"params": theirs}, h, x)[0]

    return of_cells("linen", "flax", "after", draw, step)


def nnx() -> Framework:
    """flax.nnx.GRUCell."""

    def build(model: Model) -> Any:
        from flax import nnx

        dtype = jnp.dtype(model.dtype)
        return nnx.GRUCell(model.input, model.hidden, param_dtype=dtype, rngs=nnx.Rngs(0))

    def draw(model: Model, chance: np.random.Generator) -> Any:
        from flax import nnx

        cell = build(model)
        state = nnx.state(cell, nnx.Param)
        nnx.update(cell, jax.tree.map(lambda leaf: uniform(chance, leaf.shape, model.dtype), state))
        return cell

    def step(model: Model, theirs: Any, h: jax.Array, x: jax.Array) -> Any:
        from flax import nnx

        cell = theirs
        if isinstance(theirs, dict):
            cell = build(model)
            nnx.update(cell, theirs)
        return cell(h, x)[0]

    return of_cells("nnx", "flax", "after", draw, step)


def haiku() -> Framework:
    """haiku.GRU."""

    def build(model: Model) -> Any:
        import haiku

        return haiku.without_apply_rng(
            haiku.transform(lambda x, h: haiku.GRU(model.hidden)(x, h)[1])
        )

    def draw(model: Model, chance: np.random.Generator) -> Any:
        x, h = jnp.zeros((1, model.input)), jnp.zeros((1, model.hidden))
        weights = jax.eval_shape(build(model).init, jax.random.key(0), x, h)
        return jax.tree.map(lambda leaf: uniform(chance, leaf.shape, model.dtype), weights)

    def step(model: Model, theirs: Any, h: jax.Array, x: jax.Array) -> Any:
        return build(model).apply(theirs, x, h)

    return of_cells("haiku", "dm-haiku", "before", draw, step)


def equinox() -> Framework:
    """equinox.nn.GRUCell."""

    def draw(model: Model, chance: np.random.Generator) -> Any:
        import equinox

        key, dtype = jax.random.key(0), jnp.dtype(model.dtype)
        cell = equinox.nn.GRUCell(model.input, model.hidden, model.bias, dtype, key=key)
        return jax.tree.map(
            lambda leaf: jnp.asarray(uniform(chance, leaf.shape, model.dtype)), cell
        )

    def step(model: Model, theirs: Any, h: jax.Array, x: jax.Array) -> Any:
        return jax.vmap(theirs)(x, h)

    framework = of_cells("equinox", "equinox", "after", draw, step)
    return dataclasses.replace(
        framework, models=framework.models | {"cell without bias": Model(bias=False)}
    )


def of_cells(
    name: str,
    distribution: str,
    reset: Any,
    draw_cell: Callable[[Model, np.random.Generator], Any],
    step: Callable[[Model, Any, jax.Array, jax.Array], Any],
) -> Framework:
    """A framework that has cells, of which the caller makes layers: `theirs[layer][direction]`."""

    def sized(model: Model, layer: int) -> Model:
        return dataclasses.replace(model, input=model.inputs_of(layer))

    def draw(model: Model, chance: np.random.Generator) -> Any:
        with promotion():
            if model.layers == 0:
                return draw_cell(model, chance)
            return tuple(
                tuple(draw_cell(sized(model, layer), chance) for _ in range(model.directions))
                for layer in range(model.layers)
            )

    def run(model: Model, theirs: Any, xs: np.ndarray, states: list[np.ndarray]) -> Result:
        given, last = iter(states), []
        with promotion():
            for index, layer in enumerate(theirs if model.layers else ((theirs,),)):
                outputs = []
                for direction, cell in enumerate(layer):
                    order = slice(None, None, -1 if direction else 1)
                    advance = jax.jit(functools.partial(step, sized(model, index), cell))
                    h, ys = jnp.asarray(next(given)), []
                    for x in xs[order]:
                        h = advance(h, jnp.asarray(x))
                        ys.append(np.asarray(h))
                    last.append(ys[-1])
                    outputs.append(np.stack(ys)[order])
                xs = np.concatenate(outputs, axis=-1)
        return xs, last

    models = CELLS | {
        "2 layers, both directions, float64": Model(layers=2, directions=2, dtype="float64")
    }
    models = {each: dataclasses.replace(model, reset=reset) for each, model in models.items()}
    return Framework(name, distribution, models, draw, run)


@contextlib.contextmanager
def promotion() -> Iterator[None]:
    """Other libraries rely on JAX's implicit promotion."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


FRAMEWORKS = {make.__name__: make() for make in (torch, keras, onnx, linen, nnx, haiku, equinox)}
