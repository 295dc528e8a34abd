"""What has to hold of the fused kernels on a device, each a function that raises where it fails."""

# torch, whose work is the other stream, comes with the extra `bench`.
# pyright: reportMissingImports=false

import dataclasses
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

import gru_jax

VALUES, GRADIENTS = 2e-2, 6e-2
"""How far bfloat16 operands may take results, relative to the largest number of an array."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the checks run.

    Attributes:
        implementation: of :func:`gru_jax.unroll`.
        hidden_sizes: those to check.
        steps: of the long sequence.
        repetitions: of the same call.
    """

    implementation: str = "mosaic_gpu"
    hidden_sizes: tuple[int, ...] = (128, 256, 384, 512)
    steps: int = 10_000
    repetitions: int = 1_000


@dataclasses.dataclass(frozen=True)
class Case:
    """A call with every feature, and weights that make a loss of what it gives."""

    arguments: tuple[gru_jax.GRUParams, jax.Array, jax.Array]
    controls: dict[str, jax.Array]
    reverse: bool
    weights: tuple[jax.Array, jax.Array]

    @classmethod
    def draw(cls, time: int, batch: int, hidden: int, *, plain: bool = False) -> "Case":
        """All features, or none with ``plain``. The numbers are exact in bfloat16."""
        keys = iter(jax.random.split(jax.random.key(time * 1000 + batch), 12))
        inputs = 64
        params = gru_jax.init(next(keys), inputs, hidden, bias_init="torch", learned_h0=not plain)

        def normal(*shape: int) -> jax.Array:
            return jax.random.normal(next(keys), shape).astype(jnp.bfloat16)

        params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
        controls = {
            "lengths": jax.random.randint(next(keys), (batch,), 0, time + 1),
            "mask": jax.random.bernoulli(next(keys), 0.8, (time, batch)),
            "starts": jax.random.bernoulli(next(keys), 0.1, (time, batch)),
        }
        h0 = jnp.tanh(normal(batch, hidden).astype(jnp.float32))
        return cls(
            (params, normal(time, batch, inputs), h0),
            {} if plain else controls,
            reverse=bool(batch % 2) and not plain,
            weights=(normal(batch, hidden).astype(jnp.float32), normal(time, batch, hidden)),
        )

    def outcome(self, implementation: str) -> Any:
        """``((h_last, ys), gradients of the loss)``, compiled once."""
        return _outcome(self.arguments, self.controls, self.weights, self.reverse, implementation)

    def exact(self) -> Any:
        """The same in float64, on the CPU."""
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):

            def wide(leaf: jax.Array) -> jax.Array:
                is_floating = jnp.issubdtype(leaf.dtype, jnp.floating)
                return jnp.asarray(np.asarray(leaf, np.float64 if is_floating else leaf.dtype))

            arguments, controls, weights = jax.tree.map(
                wide, (self.arguments, self.controls, self.weights)
            )
            found = _outcome(arguments, controls, weights, self.reverse, "xla")
            return jax.tree.map(np.asarray, found)


# Deterministic, or what XLA adds up around the kernels could differ from run to run.
@functools.partial(
    jax.jit, static_argnums=(3, 4), compiler_options={"xla_gpu_deterministic_ops": True}
)
def _outcome(
    arguments: Any, controls: Any, weights: Any, reverse: bool, implementation: str
) -> Any:
    def loss(*arguments: Any) -> Any:
        last, ys = gru_jax.unroll(
            *arguments, **controls, reverse=reverse, implementation=implementation
        )
        dtype = last.dtype
        total = jnp.sum(last * weights[0]) + jnp.sum(ys.astype(dtype) * weights[1].astype(dtype))
        return total, (last, ys)

    (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arguments)
    return outputs, gradients


def hold(came: Any, expected: Any) -> dict[str, float]:
    """Errors of values and gradients. Raises ValueError where they are more than rounding."""
    errors = {}
    for name, limit, index in (("values", VALUES, 0), ("gradients", GRADIENTS, 1)):
        pairs = zip(jax.tree.leaves(came[index]), jax.tree.leaves(expected[index]), strict=True)
        found = [_distance(*pair) for pair in pairs]
        errors[name] = float(np.max(found))
        if not errors[name] <= limit:
            raise ValueError(f"{name} are off by {errors[name]:.1e}, of each array {found}")
    return errors


def _distance(came: Any, expected: Any) -> float:
    came, expected = np.asarray(came, np.float64), np.asarray(expected, np.float64)
    if not came.size:
        return 0.0
    return float(np.abs(came - expected).max() / max(np.abs(expected).max(), 1.0))


def poison() -> None:
    """Leaves NaN in the memory that the next results are put into."""
    pieces = [jnp.full(size, jnp.nan) for size in (2**24, 2**20, 2**20, 2**16, 2**12)]
    jax.block_until_ready(pieces)


def values_and_gradients(setting: Setting, hidden: int) -> dict[str, float]:
    """Odd sizes with all features, against float64; outputs poisoned."""

    def prepare(sizes: tuple[int, int]) -> tuple[Case, Any]:
        case = Case.draw(*sizes, hidden)
        case.outcome(setting.implementation)
        return case, case.exact()

    # Nearly all of the time is compilation.
    with ThreadPoolExecutor() as pool:
        prepared = list(pool.map(prepare, ((1, 1), (2, 17), (3, 16), (50, 33))))
    worst = {"values": 0.0, "gradients": 0.0}
    for case, expected in prepared:
        poison()
        errors = hold(case.outcome(setting.implementation), expected)
        worst = {name: max(worst[name], errors[name]) for name in worst}
    return worst


def same_bits(setting: Setting, hidden: int) -> dict[str, int]:
    """The same call over and over, bit for bit: what moves is a race."""
    case = Case.draw(40, 48, hidden)

    @jax.jit
    def differ(one: Any, other: Any) -> jax.Array:
        def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
            bits = jnp.uint16 if a.dtype == jnp.bfloat16 else jnp.uint32
            as_bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=bits)
            return jnp.any(as_bits(a) != as_bits(b))

        return jnp.any(jnp.stack(jax.tree.leaves(jax.tree.map(of_leaf, one, other))))

    first = case.outcome(setting.implementation)
    moved = jnp.zeros((), bool)
    for _ in range(setting.repetitions):
        moved = moved | differ(case.outcome(setting.implementation), first)
    if moved:
        raise ValueError(f"{setting.repetitions} repetitions do not agree bit for bit")
    return {"repetitions": setting.repetitions}


def beside_other_work(setting: Setting, hidden: int) -> dict[str, int]:
    """The same bits while another stream of the same process keeps the device busy."""
    import torch

    if not torch.cuda.is_available():
        raise NotImplementedError("torch sees no GPU")
    done = threading.Event()

    def disturb() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            square = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
            while not done.is_set():
                for _ in range(20):
                    torch.mm(square, square)
                torch.cuda.current_stream().synchronize()

    other = threading.Thread(target=disturb)
    other.start()
    try:
        some = dataclasses.replace(setting, repetitions=max(1, setting.repetitions // 5))
        return same_bits(some, hidden)
    finally:
        done.set()
        other.join()


def many_steps(setting: Setting, hidden: int) -> dict[str, float]:
    """A long sequence, against the portable implementation."""
    case = Case.draw(setting.steps, 16, hidden, plain=True)
    return hold(case.outcome(setting.implementation), case.outcome("xla"))


def under_vmap(setting: Setting, hidden: int) -> dict[str, float]:
    """A mapped axis of the batch is the batch."""
    params, xs, h0 = Case.draw(7, 12, hidden, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=setting.implementation)
    parted = xs.reshape(7, 3, 4, -1), h0.reshape(3, 4, -1)
    last, ys = jax.jit(jax.vmap(run, (None, 1, 0), (0, 1)))(params, *parted)
    whole = jax.jit(run)(params, xs, h0)
    together = (last.reshape(h0.shape), ys.reshape(7, 12, -1))
    return _same(together, whole)


def under_shard_map(setting: Setting, hidden: int) -> dict[str, float]:
    """Within shard_map over all devices."""
    params, xs, h0 = Case.draw(7, 16, hidden, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=setting.implementation)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    whole, of_batch, of_steps = PartitionSpec(), PartitionSpec("data"), PartitionSpec(None, "data")
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(whole, of_steps, of_batch), out_specs=(of_batch, of_steps)
    )
    return _same(jax.jit(sharded)(params, xs, h0), jax.jit(run)(params, xs, h0))


def with_donation(setting: Setting, hidden: int) -> dict[str, float]:
    """With the state's memory given away."""
    params, xs, h0 = Case.draw(7, 16, hidden, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=setting.implementation)
    kept = jax.jit(run)(params, xs, h0)
    return _same(jax.jit(run, donate_argnums=2)(params, xs, jnp.copy(h0)), kept)


def one_call(setting: Setting, hidden: int) -> dict[str, float]:
    """A small one with all features, for who watches over it."""
    case = Case.draw(3, 17, hidden)
    return hold(case.outcome(setting.implementation), case.exact())


def _same(came: Any, expected: Any) -> dict[str, float]:
    error = float(np.max([*map(_distance, jax.tree.leaves(came), jax.tree.leaves(expected))]))
    if not error <= VALUES:
        raise ValueError(f"values are off by {error:.1e}")
    return {"values": error}


CHECKS: tuple[Callable[[Setting, int], dict[str, Any]], ...] = (
    values_and_gradients,
    same_bits,
    under_vmap,
    under_shard_map,
    with_donation,
    many_steps,
    beside_other_work,
)
"""In the order in which they run: what says most comes first."""
