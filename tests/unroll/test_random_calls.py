"""Calls with everything sampled at random: values and gradients equal the reference's.

Sampled are the cell, the implementation, rematerialisation, direction, controls and their dtypes,
the dtypes of parameters, inputs and state, sizes that may be 0, the transformation that the call is
made under, and whether the machine has one device or several. At masked steps the inputs are NaN.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import gru_jax
from gru_jax._unroll import call_spec
from tests import reference
from tests.cells.cases import CASES, Problem
from tests.shapes import ProblemSize

INTEGERS = ("int8", "uint8", "int32", "uint32", "int64")
DTYPES = ("float64", "float32", "bfloat16")
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 0.02}
TRANSFORMATIONS = ("eager", "jit", "vmap", "scan", "shard_map", "set_mesh", "debug_nans")


class Call:
    """One call, a function of its seed."""

    def __init__(self, seed: int):
        self.random = random = np.random.default_rng(seed)
        self.transformation = self.draw(*TRANSFORMATIONS)
        batch = self.draw((), (2,), (2,), (2, 3), (0,))
        size = ProblemSize(self.draw(0, 1, 5, 5, 5), batch, self.draw(0, 1, 2, 2), self.draw(1, 3))
        case = self.draw(*CASES)
        exact = self.draw(True, False)
        dtypes = [self.draw(*DTYPES[: 1 if exact else 3]) for _ in range(3)]
        self.dtypes = dict(zip(("weights", "xs", "state"), dtypes, strict=True))
        self.learned_h0, bias = self.draw(True, False), self.draw(True, False)
        problem = Problem.sample(case, size, seed, bias=bias, learned_h0=self.learned_h0)
        rounded = {name: vars(problem.rounded(dtype))[name] for name, dtype in self.dtypes.items()}
        self.problem = Problem(**{**vars(problem), **rounded})
        self.has_state = self.draw(True, False)
        self.options = {
            "implementation": self.draw(None, "xla", "scan"),
            "checkpoint": self.draw(None, "step", "chunk", 2),
            "reverse": self.draw(True, False),
        }
        time_shape = (size.time, *batch)
        self.controls = {
            "lengths": random.integers(0, size.time + 1, batch).astype(self.draw(*INTEGERS)),
            "mask": (random.uniform(size=time_shape) < 0.7).astype(self.draw("bool", "float32")),
            "starts": (random.uniform(size=time_shape) < 0.3).astype(self.draw("bool", "int32")),
        }
        for name in list(self.controls):
            if self.draw(True, False):
                del self.controls[name]
        has_mesh = self.transformation in ("shard_map", "set_mesh")
        self.has_one_device = self.draw(True, False) and not has_mesh

    def draw(self, *choices):
        return choices[self.random.integers(len(choices))]

    def __str__(self):
        controls = {name: str(value.dtype) for name, value in self.controls.items()}
        return (
            f"{self.problem.case} {self.transformation} xs {self.problem.xs.shape} {self.dtypes} "
            f"{self.options} {controls} state {self.has_state} learned {self.learned_h0} "
            f"one device {self.has_one_device}"
        )

    def arguments(self):
        """Those to differentiate in: weights by name, inputs, leaves of the state."""
        problem, dtypes = self.problem, self.dtypes
        weights = {n: jnp.asarray(w, dtypes["weights"]) for n, w in problem.weights.items()}
        state = [jnp.asarray(leaf, dtypes["state"]) for leaf in problem.state]
        xs = np.array(problem.xs)
        if "mask" in self.controls:
            xs[self.controls["mask"] == 0] = np.nan
        return {
            "weights": weights,
            "xs": jnp.asarray(xs, dtypes["xs"]),
            "state": state if self.has_state else [],
        }

    def loss(self, arguments, controls):
        """A weighted sum of the results, computed under the transformation."""
        case = self.problem.case
        xs = arguments["xs"]
        cell = case.cell_type(**arguments["weights"], **case.static)
        leaves = arguments["state"]
        state = (gru_jax.LSTMState(*leaves) if len(leaves) > 1 else leaves[0]) if leaves else None

        def run(cell, xs, state, controls):
            last, ys = gru_jax.unroll(cell, xs, state, **controls, **self.options)
            return [leaf.astype("float64") for leaf in (*jax.tree.leaves(last), ys)]

        *last, ys = self.transformed(run, xs)(cell, xs, state, controls)
        weights = [*self.problem.cotangent_state, self.problem.cotangent_ys]
        return sum((w * result).sum() for w, result in zip(weights, (*last, ys), strict=True))

    def transformed(self, run, xs):
        if self.transformation == "vmap":
            return lambda *args: [r[1] for r in jax.vmap(run)(*twice_each(args))]
        if self.transformation == "scan":
            return lambda *args: [r[1] for r in jax.lax.map(lambda x: run(*x), twice_each(args))]
        # Of shard_map with empty arrays XLA rejects some gradients, those of lax.scan as well.
        if self.transformation == "shard_map" and xs.ndim > 2 and xs.size:
            mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
            of_state, of_time = PartitionSpec("data"), PartitionSpec(None, "data")
            names = {"lengths": of_state, "mask": of_time, "starts": of_time}
            controls = {name: names[name] for name in self.controls}
            return jax.shard_map(
                run,
                mesh=mesh,
                in_specs=(PartitionSpec(), of_time, of_state, controls),
                out_specs=[*[of_state] * len(self.problem.state), of_time],
            )
        return run

    def check(self):
        evaluate = jax.value_and_grad(self.loss)
        context = contextlib.nullcontext()
        if self.transformation == "debug_nans":
            context = jax.debug_nans(True)
        elif self.transformation == "set_mesh":
            context = jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)))
        elif self.transformation != "eager":
            evaluate = jax.jit(evaluate)
        arguments = self.arguments()
        with context, devices(1 if self.has_one_device else None):
            value, gradient = jax.device_get(evaluate(arguments, self.controls))
        assert jax.tree.map(np.shape, gradient) == jax.tree.map(np.shape, arguments)
        self.compare(value, gradient)

    def compare(self, value, gradient):
        """Derivatives along a random direction of each argument, by the complex step."""
        problem, step = self.problem, 1e-30
        state = [*problem.state] if self.has_state else []
        controls = {
            name: value if name == "lengths" else value != 0
            for name, value in self.controls.items()
        }
        real = {"weights": dict(problem.weights), "xs": problem.xs, "state": state}
        leaves, treedef = jax.tree.flatten(real)
        tolerance = max(TOLERANCE[dtype] for dtype in self.dtypes.values())

        def loss(leaves):
            arguments = jax.tree.unflatten(treedef, leaves)
            last, ys = reference.unroll(
                problem.case.step,
                arguments["weights"],
                arguments["xs"],
                tuple(arguments["state"]) or None,
                reverse=self.options["reverse"],
                **controls,
            )
            total = (ys * problem.cotangent_ys).sum()
            return total + sum(
                (w * h).sum() for w, h in zip(problem.cotangent_state, last, strict=True)
            )

        def close(actual, expected, size):
            assert np.isfinite(actual), self
            assert abs(actual - expected) <= tolerance * (1 + abs(expected) + size), self

        results = problem.cotangent_ys.size + 1
        close(value, loss(leaves), np.sqrt(results))
        slopes = jax.tree.leaves(gradient)
        for index, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
            direction = self.random.normal(size=leaf.shape)
            moved = [*leaves]
            moved[index] = leaf + 1j * step * direction
            expected = np.imag(loss(moved)) / step
            actual = (np.asarray(slope, np.float64) * direction).sum()
            close(actual, expected, np.sqrt(results * leaf.size))


@contextlib.contextmanager
def devices(count):
    """A machine with so many devices; None for those that there are."""
    if count is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call_spec, "count_devices", lambda device: count)
        jax.clear_caches()
        yield
    jax.clear_caches()


def twice_each(tree):
    """All arrays behind zeros, along a new axis."""
    return jax.tree.map(lambda leaf: jnp.stack([jnp.zeros_like(leaf), jnp.asarray(leaf)]), tree)


def check(seed: int) -> None:
    with jax.enable_x64(True):
        Call(seed).check()


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_reference(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6, 46, 10))
def test_many_equal_the_reference(first):
    for seed in range(first, first + 10):
        check(seed)
