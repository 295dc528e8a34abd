"""Calls under a mesh with explicit axes: as on one device, by the same implementation."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import gru_jax
from gru_jax._unroll import api
from gru_jax._unroll.mesh import batch_sharding, merge_entries
from gru_jax._unroll.xla import tuning as tuning_module
from gru_jax._unroll.xla.tuning import CPU_TUNING
from tests.assert_trees import assert_close
from tests.unroll.collectives import collectives
from tests.unroll.mesh_cases import CASES, PARAMS, XS
from tests.unroll.tuning_overrides import override


def explicit_mesh(shape):
    return jax.make_mesh(
        tuple(shape.values()), tuple(shape), axis_types=(AxisType.Explicit,) * len(shape)
    )


def place(array, spec, mesh):
    return array if spec is None else jax.device_put(array, NamedSharding(mesh, spec))


def place_params(params, spec, mesh):
    def of_leaf(leaf):
        return place(leaf, spec if leaf.ndim == 2 else PartitionSpec(), mesh)

    return params if spec is None else jax.tree.map(of_leaf, params)


def loss(outputs):
    return functools.reduce(operator.add, (jnp.sin(o).sum() for o in jax.tree.leaves(outputs)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if case.is_fast else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_it_is_as_on_one_device(name, taken):
    """Values and gradients, each compiled as a whole, and called as users do, without a jit."""
    case = CASES[name]
    if jax.__version_info__ < case.min_jax:
        pytest.skip(f"jax {jax.__version__} cannot")
    mesh = explicit_mesh(case.mesh)

    @jax.jit
    def values_and_gradients(params, xs, *others):
        value = case.run(params, xs, *others)
        gradients = jax.grad(lambda *both: loss(case.run(*both, *others)), argnums=(0, 1))
        return value, gradients(params, xs)

    expected = jax.device_get(values_and_gradients(PARAMS, *case.arrays))
    taken.clear()
    # A call that was traced before would not be seen.
    api._unroll.clear_cache()
    api._unroll_both.clear_cache()
    with jax.set_mesh(mesh):
        arrays = [place(*each, mesh) for each in zip(case.arrays, case.specs, strict=True)]
        params = place_params(PARAMS, case.params_spec, mesh)
        actual = values_and_gradients(params, *arrays)
        eager = case.run(params, *arrays)
    assert set(taken) == ({case.implementation} if case.implementation else set())
    assert_close(jax.device_get(actual), expected, "float32")
    assert_close(jax.device_get(eager), expected[0], "float32")


def test_arrays_of_a_mesh_outside_of_set_mesh():
    mesh = explicit_mesh({"data": 4})
    xs = place(XS, PartitionSpec(None, "data"), mesh)
    gradient = jax.jit(jax.grad(lambda params, xs: loss(gru_jax.unroll(params, xs))))
    actual = jax.device_get((gru_jax.unroll(PARAMS, xs), gradient(PARAMS, xs)))
    expected = jax.device_get((gru_jax.unroll(PARAMS, XS), gradient(PARAMS, XS)))
    assert_close(actual, expected, "float32")


def test_what_jax_rejects_outside_of_set_mesh():
    """The guide lists it. A version of JAX that permits it fails here."""
    mesh = explicit_mesh({"data": 4})
    xs = place(XS, PartitionSpec(None, "data"), mesh)

    def mean_square(params, xs):
        return jnp.mean(gru_jax.unroll(params, xs)[1] ** 2)

    captured = jax.jit(jax.grad(lambda params: mean_square(params, xs)))
    message = "Length of device assignment 1 is not equal to the size of the mesh 4"
    with pytest.raises(ValueError, match=message):
        jax.grad(mean_square)(PARAMS, xs)
    with pytest.raises(ValueError, match=message):
        jax.grad(jnp.mean)(xs)
    with pytest.raises(jax.errors.JaxRuntimeError, match="NOT_FOUND"):
        captured(PARAMS)
    expected = jax.device_get(jax.grad(mean_square)(PARAMS, XS))
    with jax.set_mesh(mesh):
        for gradient in (jax.grad(mean_square)(PARAMS, xs), captured(PARAMS)):
            assert_close(jax.device_get(gradient), expected, "float32")


@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto], ids=str)
def test_a_gradient_sums_over_devices_once(axis_type):
    """All parameters in one all-reduce, outside of loops, for any number of steps."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
    params = jax.device_put(PARAMS, NamedSharding(mesh, PartitionSpec()))

    @jax.jit
    def gradient(params, xs):
        return jax.grad(lambda params: (gru_jax.unroll(params, xs)[1] ** 2).mean())(params)

    for time in (16, 4096):
        xs = jax.ShapeDtypeStruct(
            (time, *XS.shape[1:]),
            jnp.float32,
            sharding=NamedSharding(mesh, PartitionSpec(None, "data")),
        )
        with jax.set_mesh(mesh):
            found = collectives(gradient.lower(params, xs).compile().as_text())
        assert set(found) == {("all-reduce", False)}
        assert 1 <= found["all-reduce", False] <= len(jax.tree.leaves(params))


def test_each_device_of_a_cpu_runs_as_many_shards_as_are_its_cores(monkeypatch):
    """With resets, whose state is split as well."""
    monkeypatch.setattr("gru_jax._unroll.xla.run.count_cores", lambda: 8)
    split = override(CPU_TUNING, shards={"max_shards": 4, "min_rows": 1, "threshold": 0})
    monkeypatch.setattr(tuning_module, "CPU_TUNING", split)
    mesh = explicit_mesh({"data": 4})
    starts = np.arange(XS[..., 0].size).reshape(XS.shape[:2]) % 3 == 0

    @jax.jit
    def gradient(params, xs):
        return jax.grad(lambda params: loss(gru_jax.unroll(params, xs, starts=starts)))(params)

    expected = jax.device_get(gradient(PARAMS, XS))
    with jax.set_mesh(mesh):
        xs = place(XS, PartitionSpec(None, "data"), mesh)
        assert "2 loops on as many CPU cores" in str(gru_jax.explain(PARAMS, xs))
        assert_close(jax.device_get(gradient(PARAMS, xs)), expected, "float32")


def test_tensor_parallel_calls_are_told():
    mesh = explicit_mesh({"data": 2, "model": 2})
    with jax.set_mesh(mesh):
        xs = place(XS, PartitionSpec(None, "data"), mesh)
        params = place_params(PARAMS, PartitionSpec(None, "model"), mesh)
        text = str(gru_jax.explain(params, xs))
        assert "sharded over model, and XLA partitions the loop" in text
        text = str(gru_jax.explain(place_params(PARAMS, PartitionSpec(), mesh), xs))
    assert "runs per shard of the batch, over data" in text
    assert "partitions the loop" not in text


@pytest.mark.parametrize(
    ("shardings", "rank", "merged"),
    [
        ([("data",), (None,)], 1, ("data",)),
        ([(None,), ("data",)], 1, ("data",)),
        ([("data", None), ("model", "model")], 2, ("data", "model")),
        ([("data", None), (None, "data")], 2, ("data", None)),
        ([(("data", "model"),), ("model",)], 1, (("data", "model"),)),
        ([(None, ("data", "model")), ("data", None)], 2, (None, ("data", "model"))),
        ([()], 1, (None,)),
        ([()], 0, ()),
    ],
)
def test_the_first_sharding_of_each_batch_axis_counts(shardings, rank, merged):
    assert merge_entries(shardings, rank) == merged


def test_how_a_call_is_spread():
    found = batch_sharding(
        params=[(None, "model"), ("data", None)],
        sequences=[("time", None)],
        states=[("data",)],
        rank=1,
    )
    assert found.batch == ("data",)
    assert found.tensor_axes == ("model",)
    assert found.are_params_gathered
    assert found.is_time_sharded
    assert found.of_sequence == PartitionSpec(None, "data")
    assert len(found.describe()) == 4
