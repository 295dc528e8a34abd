"""Checks of the fused kernels on a device: each is a function that raises if the check fails."""

# torch, which keeps another stream busy, comes with the extra `bench`.
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
from experiments.bench.gpu.cases import (
    Case,
    assert_close,
    compute_outcome,
    distance,
    fill_with_nan,
)
from gru_jax.typing import ImplementationName

VALUES, GRADIENTS = 2e-2, 6e-2
"""Tolerances with bfloat16 operands, relative to the largest element of an array."""

FINER = 8
"""How much smaller the tolerances of float16 operands are, which have three more bits. The
one-block kernels take them for float32, as well."""

MAX_ERROR_RATIO = 1.5
"""Of float32 to ``lax.scan`` in float32, both at JAX's default precision on the device."""


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """Configuration of the checks.

    Attributes:
        implementation: the argument of :func:`gru_jax.unroll`.
        hidden_sizes: the sizes to check.
        steps: number of steps of the long sequence.
        repetitions: how often the same call is repeated.
        dtype: of inputs and outputs: "bfloat16", "float16" or "float32".
        problems: of each length whose errors are compared with those of ``lax.scan``.
        checks: names of the functions that run, of :data:`CHECKS`; None for all.
        sanitize: whether compute-sanitizer runs the smallest and the largest size, too.
    """

    implementation: ImplementationName = "mosaic_gpu"
    hidden_sizes: tuple[int, ...] = (128, 256, 384, 512)
    steps: int = 10_000
    repetitions: int = 1_000
    dtype: str = "bfloat16"
    problems: int = 67
    checks: tuple[str, ...] | None = None
    sanitize: bool = True

    @property
    def tolerances(self) -> tuple[float, float]:
        """Of values and of gradients, relative to the largest element of an array."""
        finer = 1 if self.dtype == "bfloat16" else FINER
        return VALUES / finer, GRADIENTS / finer


def values_and_gradients(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Odd sizes with all features, compared with float64; output memory holds NaN before.

    The last has more sequences than tiles of 8 that the device runs at once, and a last tile that
    overlaps the one before.
    """
    many = 8 * getattr(jax.devices()[0], "core_count", 2) + 13

    def prepare(sizes: tuple[int, int]) -> tuple[Case, Any]:
        case = Case.sample(*sizes, hidden, config.dtype)
        case.outcome(config.implementation)
        return case, case.float64_reference()

    # Nearly all of the time is compilation.
    with ThreadPoolExecutor() as pool:
        prepared = list(pool.map(prepare, ((1, 1), (2, 17), (3, 16), (50, 33), (3, many))))
    worst = {"values": 0.0, "gradients": 0.0}
    for case, expected in prepared:
        fill_with_nan()
        errors = assert_close(case.outcome(config.implementation), expected, config.tolerances)
        worst = {name: max(worst[name], errors[name]) for name in worst}
    return worst


def is_deterministic(config: CheckConfig, hidden: int) -> dict[str, int]:
    """Repetitions of a call are equal bit for bit; a difference is a race.

    The last tile overlaps the one before.
    """
    case = Case.sample(40, 45, hidden, config.dtype)

    @jax.jit
    def differ(one: Any, other: Any) -> jax.Array:
        def of_leaf(a: jax.Array, b: jax.Array) -> jax.Array:
            bits = jnp.uint16 if a.dtype.itemsize == 2 else jnp.uint32
            as_bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=bits)
            return jnp.any(as_bits(a) != as_bits(b))

        return jnp.any(jnp.stack(jax.tree.leaves(jax.tree.map(of_leaf, one, other))))

    first = case.outcome(config.implementation)
    has_changed = jnp.zeros((), bool)
    for _ in range(config.repetitions):
        has_changed = has_changed | differ(case.outcome(config.implementation), first)
    if has_changed:
        raise ValueError(f"{config.repetitions} repetitions do not agree bit for bit")
    return {"repetitions": config.repetitions}


def is_deterministic_under_load(config: CheckConfig, hidden: int) -> dict[str, int]:
    """Repetitions are equal while another stream of the process keeps the device busy."""
    import torch

    if not torch.cuda.is_available():
        raise NotImplementedError("torch sees no GPU")
    done = threading.Event()

    def run_matmuls() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            square = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
            while not done.is_set():
                for _ in range(20):
                    torch.mm(square, square)
                torch.cuda.current_stream().synchronize()

    other = threading.Thread(target=run_matmuls)
    other.start()
    try:
        fewer = dataclasses.replace(config, repetitions=max(1, config.repetitions // 5))
        return is_deterministic(fewer, hidden)
    finally:
        done.set()
        other.join()


def long_sequence(config: CheckConfig, hidden: int) -> dict[str, float]:
    """A long sequence, compared with the implementation "xla"."""
    case = Case.sample(config.steps, 16, hidden, config.dtype, plain=True)
    found, expected = case.outcome(config.implementation), case.outcome("xla")
    return assert_close(found, expected, config.tolerances)


def under_vmap(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Mapping over a part of the batch gives the same as the whole batch."""
    params, xs, h0 = Case.sample(7, 12, hidden, config.dtype, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=config.implementation)
    mapped = xs.reshape(7, 3, 4, -1), h0.reshape(3, 4, -1)
    last, ys = jax.jit(jax.vmap(run, (None, 1, 0), (0, 1)))(params, *mapped)
    whole = jax.jit(run)(params, xs, h0)
    return _same((last.reshape(h0.shape), ys.reshape(7, 12, -1)), whole, config)


def under_vmap_over_weights(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Three sets of weights give, mapped, the values and gradients that each gives alone."""
    case = Case.sample(9, 11, hidden, config.dtype)
    params, *others = case.arguments
    copies = [jax.tree.map(lambda leaf, by=by: leaf * by, params) for by in (1.0, 0.5, -1.0)]

    @jax.jit
    @jax.vmap
    def outcome(params: gru_jax.GRUParams) -> Any:
        arguments = (params, *others)
        return compute_outcome(
            arguments, case.controls, case.weights, case.reverse, config.implementation
        )

    mapped = outcome(jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies))
    alone = [
        dataclasses.replace(case, arguments=(copy, *others)).outcome(config.implementation)
        for copy in copies
    ]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    return assert_close(mapped, expected, config.tolerances)


def both_directions(config: CheckConfig, hidden: int) -> dict[str, float]:
    """A bidirectional layer, compared with the implementation "xla"."""
    case = Case.sample(9, 11, hidden, config.dtype)
    params, xs, _ = case.arguments
    layer = (params, jax.tree.map(lambda leaf: -leaf, params))
    stack, controls = gru_jax.Stack((layer,)), dict[str, Any](case.controls)

    def outcome(implementation: ImplementationName) -> Any:
        def loss(stack: gru_jax.Stack, xs: jax.Array) -> Any:
            states, ys = gru_jax.unroll_stack(stack, xs, implementation=implementation, **controls)
            total = jnp.sum(jnp.square(ys.astype(jnp.float32)))
            return total + sum(jnp.sum(jnp.square(state)) for state in states[0]), (states, ys)

        (_, outputs), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(stack, xs)
        return outputs, gradients

    return assert_close(outcome(config.implementation), outcome("xla"), config.tolerances)


def beyond_float16(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Weights, and cotangents, that float16 does not hold, compared with float64."""
    if config.dtype != "float32":
        raise NotImplementedError("only float32 calls multiply in a dtype of a smaller range")
    case = Case.sample(9, 11, hidden, config.dtype, plain=True)
    params, xs, h0 = case.arguments
    large = dataclasses.replace(params, w_h=params.w_h.at[0, -1].set(62_000))
    # The state stays 0, so that no gate is saturated. Each step multiplies a cotangent by some 25.
    growing = dataclasses.replace(
        jax.tree.map(jnp.zeros_like, params), w_x=params.w_x, w_h=100 * params.w_h
    )
    worst = {"values": 0.0, "gradients": 0.0}
    for arguments in ((large, xs, h0), (growing, jnp.zeros_like(xs), jnp.zeros_like(h0))):
        one = dataclasses.replace(case, arguments=arguments)
        found, expected = one.outcome(config.implementation), one.float64_reference()
        errors = assert_close(found, expected, config.tolerances)
        worst = {name: max(worst[name], errors[name]) for name in worst}
    return worst


def with_x64(config: CheckConfig, hidden: int) -> dict[str, float]:
    """While 64-bit dtypes are enabled, as for a part of a program that needs them."""
    with jax.enable_x64(True):
        return smoke(config, hidden)


def as_accurate_as_scan(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Errors on random problems with gains up to 3, relative to those of ``lax.scan``.

    Both in float32 at JAX's default precision, compared with float64. The geometric mean over the
    problems may be 1.5.
    """
    if config.dtype != "float32":
        raise NotImplementedError("lax.scan is compared in float32")
    ratios: dict[str, list[float]] = {"values": [], "gradients": []}

    def compare(one: Case) -> list[dict[str, float]]:
        expected = one.float64_reference()
        return [
            assert_close(one.outcome(name), expected, (np.inf, np.inf))
            for name in (config.implementation, "scan")
        ]

    cases = []
    for time in (config.steps // 500, config.steps // 50, config.steps // 5):
        case = Case.sample(max(1, time), 4, hidden, config.dtype, plain=True)
        params, *others = case.arguments
        random = np.random.default_rng(time)
        for gain in random.uniform(0, 3, config.problems):
            w_h = random.normal(size=params.w_h.shape) * gain / np.sqrt(hidden)
            changed = dataclasses.replace(params, w_h=jnp.asarray(w_h, params.w_h.dtype))
            cases.append(dataclasses.replace(case, arguments=(changed, *others)))
    # Most of the time is compilation, one for each length, and float64 on the CPU.
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(compare, cases[:: config.problems]))
        for ours, by_scan in pool.map(compare, cases):
            for kind, found in ratios.items():
                found.append(ours[kind] / max(by_scan[kind], float(jnp.finfo(jnp.float32).eps)))
    means = {kind: float(np.exp(np.mean(np.log(found)))) for kind, found in ratios.items()}
    if not max(means.values()) <= MAX_ERROR_RATIO:
        raise ValueError(f"errors are {means} times those of lax.scan")
    return {**means, **{f"largest of {kind}": max(found) for kind, found in ratios.items()}}


def under_shard_map(config: CheckConfig, hidden: int) -> dict[str, float]:
    """Inside shard_map over all devices."""
    params, xs, h0 = Case.sample(7, 16, hidden, config.dtype, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=config.implementation)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    replicated, of_batch = PartitionSpec(), PartitionSpec("data")
    of_steps = PartitionSpec(None, "data")
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(replicated, of_steps, of_batch), out_specs=(of_batch, of_steps)
    )
    return _same(jax.jit(sharded)(params, xs, h0), jax.jit(run)(params, xs, h0), config)


def with_donation(config: CheckConfig, hidden: int) -> dict[str, float]:
    """With the state's buffer donated."""
    params, xs, h0 = Case.sample(7, 16, hidden, config.dtype, plain=True).arguments
    run = functools.partial(gru_jax.unroll, implementation=config.implementation)
    expected = jax.jit(run)(params, xs, h0)
    return _same(jax.jit(run, donate_argnums=2)(params, xs, jnp.copy(h0)), expected, config)


def smoke(config: CheckConfig, hidden: int) -> dict[str, float]:
    """One small call with all features, for the sanitizer."""
    case = Case.sample(3, 17, hidden, config.dtype)
    expected = case.float64_reference()
    return assert_close(case.outcome(config.implementation), expected, config.tolerances)


def _same(actual: Any, expected: Any, config: CheckConfig) -> dict[str, float]:
    error = float(np.max([*map(distance, jax.tree.leaves(actual), jax.tree.leaves(expected))]))
    if not error <= config.tolerances[0]:
        raise ValueError(f"values are off by {error:.1e}")
    return {"values": error}


CHECKS: tuple[Callable[[CheckConfig, int], dict[str, Any]], ...] = (
    values_and_gradients,
    is_deterministic,
    under_vmap,
    under_vmap_over_weights,
    both_directions,
    beyond_float16,
    as_accurate_as_scan,
    with_x64,
    under_shard_map,
    with_donation,
    long_sequence,
    is_deterministic_under_load,
)
"""In the order in which they run: the most informative first."""
