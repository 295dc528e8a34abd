"""Calls under a mesh with explicit axes; T, B, D, H = 5, 8, 3, 6."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P

import gru_jax
from gru_jax.dropout import dropout
from gru_jax.nn import GRU, GRUCell

TIME, BATCH, INPUT, HIDDEN = 5, 8, 3, 6
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
PARAMS = gru_jax.init(KEY, INPUT, HIDDEN, bias_init="torch", learned_h0=True)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


XS, H0 = normal(TIME, BATCH, INPUT), normal(BATCH, HIDDEN)
LENGTHS = np.array([5, 0, 3, 2, 1, 5, 4, 4])
STARTS, MASK = RNG.random((TIME, BATCH)) < 0.4, RNG.random((TIME, BATCH)) < 0.7
ONE, TWO = {"data": 4}, {"data": 2, "model": 2}
TIME_MAJOR, BATCH_ONLY = P(None, "data"), P("data")


@dataclasses.dataclass(frozen=True)
class Case:
    """``run(params, *arrays)``, which a test compares with itself on one device."""

    run: Callable[..., Any]
    arrays: tuple[np.ndarray, ...] = (XS,)
    specs: tuple[P | None, ...] = (TIME_MAJOR,)  # None: a NumPy array that is not placed
    mesh: Any = dataclasses.field(default_factory=lambda: ONE)
    params_spec: P | None = None  # of matrices; None: made outside of the mesh
    implementation: str | None = "xla"  # that all calls take; None: there is no call
    min_jax: tuple[int, ...] = (0, 8)  # the first version that runs it
    is_fast: bool = False  # whether it is among the tests that are not marked slow


def controlled(name: str) -> Callable[..., Any]:
    return lambda params, xs, value: gru_jax.unroll(params, xs, **{name: value})


def own_scan(params: Any, xs: Any) -> Any:
    def body(h: Any, x: Any) -> Any:
        return (gru_jax.step(params, h, x),) * 2

    return lax.scan(body, gru_jax.initial_state(params, (BATCH,)), xs)


def scan_of_calls(params: Any, xs: Any) -> Any:
    first = gru_jax.unroll(params, xs[:1])[0]
    return lax.scan(lambda h, x: gru_jax.unroll(params, x, h), first, jnp.stack([xs, 2 * xs]))


def stack_of(**options: Any) -> Callable[..., Any]:
    stack = jax.device_get(gru_jax.init_stack(KEY, INPUT, HIDDEN, num_layers=2, bidirectional=True))
    return lambda params, xs: gru_jax.unroll_stack(stack, xs + params.b[0], **options)


def module(mode: str) -> Callable[..., Any]:
    def run(params: Any, xs: Any) -> Any:
        made = GRU(INPUT, HIDDEN, num_layers=2, dropout=0.5, rngs=nnx.Rngs(0))
        getattr(made, mode)()
        return made(xs + params.b[0])

    return run


def flax_rnn(params: Any, xs: Any) -> Any:
    return nnx.RNN(GRUCell(INPUT, HIDDEN, rngs=nnx.Rngs(0)))(xs + params.b[0])


def over_sequences(params: Any, xs: Any) -> Any:
    return jax.vmap(lambda x: gru_jax.unroll(params, x), in_axes=1, out_axes=(0, 1))(xs)


def over_parameters(params: Any, xs: Any) -> Any:
    def scaled(scale: Any) -> Any:
        return gru_jax.unroll(jax.tree.map(lambda leaf: scale * leaf, params), xs)

    return jax.vmap(scaled)(jnp.arange(1.0, 4.0))


def tangent(params: Any, xs: Any) -> Any:
    return jax.jvp(lambda xs: gru_jax.unroll(params, xs), (xs,), (xs,))


def hessian_product(params: Any, xs: Any) -> Any:
    gradient = jax.grad(lambda xs: (gru_jax.unroll(params, xs)[1] ** 2).sum())
    return jax.jvp(gradient, (xs,), (xs,))


def within_shard_map(params: Any, xs: Any) -> Any:
    if jax.sharding.get_abstract_mesh().empty:
        return gru_jax.unroll(params, xs)
    specs = (P(), TIME_MAJOR)
    return jax.shard_map(gru_jax.unroll, in_specs=specs, out_specs=(BATCH_ONLY, TIME_MAJOR))(
        params, xs
    )


def within_shard_map_over_another_axis(params: Any, xs: Any) -> Any:
    if jax.sharding.get_abstract_mesh().empty:
        return gru_jax.unroll(params, xs)
    return jax.shard_map(gru_jax.unroll, in_specs=(P(), P()), out_specs=P(), axis_names={"model"})(
        params, xs
    )


def of_gru(**options: Any) -> Callable[..., Any]:
    return lambda params, xs: gru_jax.unroll(params, xs, **options)


CASES = {
    "a sharded batch": Case(gru_jax.unroll, is_fast=True),
    "a batch that is not sharded": Case(gru_jax.unroll, specs=(P(),)),
    "no steps": Case(gru_jax.unroll, (XS[:0],)),
    "a single sequence": Case(gru_jax.unroll, (XS[:, 0],), (P(),)),
    "sharded over time": Case(gru_jax.unroll, (XS[:4],), (BATCH_ONLY,), is_fast=True),
    "sharded over features": Case(
        gru_jax.unroll, (normal(TIME, BATCH, INPUT + 1)[..., :INPUT],), (P(),)
    ),
    "two batch axes": Case(
        gru_jax.unroll, (normal(TIME, 4, 2, INPUT),), (P(None, "data", "model"),), TWO, is_fast=True
    ),
    "a batch axis over two mesh axes": Case(
        gru_jax.unroll, (normal(TIME, 4, 2, INPUT),), (P(None, ("data", "model")),), TWO
    ),
    "three batch axes": Case(
        gru_jax.unroll, (normal(TIME, 2, 2, 4, INPUT),), (P(None, None, "data", "model"),), TWO
    ),
    "a mesh axis that is not used": Case(gru_jax.unroll, mesh=TWO),
    "a mesh of one device": Case(gru_jax.unroll, mesh={"data": 1}),
    "reverse": Case(of_gru(reverse=True)),
    "checkpoint step": Case(of_gru(checkpoint="step")),
    "checkpoint chunk": Case(of_gru(checkpoint="chunk"), is_fast=True),
    "truncated": Case(lambda params, xs: gru_jax.unroll_truncated(params, xs, window=2)),
    "scan by name": Case(of_gru(implementation="scan"), implementation="scan"),
    "xla by name": Case(of_gru(implementation="xla")),
    "remat": Case(lambda params, xs: jax.checkpoint(gru_jax.unroll)(params, xs)),
    "jvp": Case(tangent),
    "Hessian-vector product": Case(hessian_product),
    "vmap over the sharded batch": Case(over_sequences, min_jax=(0, 8, 1), is_fast=True),
    "vmap over another axis": Case(
        lambda params, xs: jax.vmap(lambda x: gru_jax.unroll(params, x))(xs),
        (normal(2, TIME, BATCH, INPUT),),
        (P(None, None, "data"),),
    ),
    "vmap over parameters": Case(over_parameters),
    "lax.scan of calls": Case(scan_of_calls),
    # The parameters are made outside of the mesh.
    "lax.scan of steps": Case(own_scan, implementation=None, min_jax=(0, 8, 2), is_fast=True),
    "shard_map": Case(within_shard_map),
    "shard_map over another axis": Case(within_shard_map_over_another_axis, mesh=TWO),
    "stack": Case(stack_of(), is_fast=True),
    "stack with dropout": Case(stack_of(dropout=0.5, key=KEY), is_fast=True),
    "dropout": Case(lambda params, xs: dropout(KEY, xs + params.b[0], 0.5), implementation=None),
    "variational dropout": Case(
        lambda params, xs: dropout(KEY, xs + params.b[0], 0.5, broadcast_dims=(0,)),
        implementation=None,
    ),
    "module in evaluation": Case(module("eval"), (XS.swapaxes(0, 1),), (BATCH_ONLY,)),
    "module in training": Case(module("train"), (XS.swapaxes(0, 1),), (BATCH_ONLY,), is_fast=True),
    "flax.nnx.RNN": Case(flax_rnn, (XS.swapaxes(0, 1),), (BATCH_ONLY,), implementation=None),
    "parameters sharded over the batch's axis": Case(
        gru_jax.unroll, (normal(TIME, 4, INPUT),), mesh={"data": 2}, params_spec=P(None, "data")
    ),
    "tensor parallel": Case(gru_jax.unroll, mesh=TWO, params_spec=P(None, "model"), is_fast=True),
    "tensor parallel, the batch not sharded": Case(
        gru_jax.unroll, specs=(P(),), mesh={"model": 2}, params_spec=P(None, "model")
    ),
}
PLACES = {"sharded alike": True, "replicated": False, "in NumPy": None}
for name, value, spec in (
    ("lengths", LENGTHS, BATCH_ONLY),
    ("starts", STARTS, TIME_MAJOR),
    ("mask", MASK, TIME_MAJOR),
    ("h0", H0, BATCH_ONLY),
):
    run = gru_jax.unroll if name == "h0" else controlled(name)
    for place, how in PLACES.items():
        of_value = spec if how else None if how is None else P()
        CASES[f"{name} {place}"] = Case(run, (XS, value), (TIME_MAJOR, of_value))
        if how is not False:
            CASES[f"inputs replicated, {name} {place}"] = Case(run, (XS, value), (P(), of_value))
