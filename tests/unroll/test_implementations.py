"""Every implementation is one function, under every transformation and in every dtype."""

import dataclasses
import functools

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax._unroll.xla.tuning import ACCELERATOR_TUNING, Tuning
from tests.assert_trees import assert_close
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, LSTM, Problem, named
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but
from tests.unroll.tuning_overrides import (
    SAVING_PREACTIVATIONS,
    force_chunks,
    force_time_blocks,
    override,
    unroll_with,
)

# Seven steps, which chunks of three do not divide.
SHAPE = ProblemSize(time=7, batch=(2,), input=2, hidden=3)
# Six steps are two chunks of three: a scan over chunks without a second body for a last one.
DERIVED = ProblemSize(time=6, batch=(2,), input=2, hidden=2)
VARIANTS = {
    "scan": ("scan", SAVING_PREACTIVATIONS),
    "xla": ("xla", SAVING_PREACTIVATIONS),
    "xla in chunks": ("xla", force_chunks(3)),
    "xla in chunks, projecting in the loop": ("xla", force_chunks(3, project_in_loop=True)),
}
CHUNKS_IN_LOOP = "xla in chunks, projecting in the loop"


# These two differ in every decision; the others share each of theirs with one of them.
@pytest.fixture(scope="module", params=slow_but(["xla", CHUNKS_IN_LOOP], VARIANTS))
def unroll(request):
    with unroll_with(*VARIANTS[request.param]) as unroll:
        yield unroll


def sample_controls(shape: ProblemSize) -> dict[str, np.ndarray]:
    """Of every kind, for two sequences: one ends early, both have resets and masked steps."""
    random = np.random.default_rng(3)
    steps = (shape.time, *shape.batch)
    starts = random.uniform(size=steps) < 0.3
    starts[1] = True
    return {
        "lengths": np.array([shape.time, max(0, shape.time - 2)]),
        "mask": random.uniform(size=steps) < 0.8,
        "starts": starts,
    }


def rotated(name, *settings, fast):
    """Every variant with every case, and the settings in turn, so that both meet each."""
    return pytest.mark.parametrize(
        ("unroll", "case", name),
        [
            pytest.param(
                variant,
                case,
                settings[(i + j) % len(settings)],
                id=f"{variant}-{case}",
                marks=[] if variant in fast else pytest.mark.slow,
            )
            for i, variant in enumerate(VARIANTS)
            for j, case in enumerate(CASES)
        ],
        indirect=["unroll"],
    )


@rotated(
    "direction_and_policy",
    *((r, c) for r in (False, True) for c in (None, "step")),
    fast=("scan", "xla", CHUNKS_IN_LOOP),
)
@jax.enable_x64(True)
def test_against_the_reference(unroll, case, direction_and_policy):
    reverse, checkpoint = direction_and_policy
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    outcome = problem.run("float64", unroll, checkpoint=checkpoint, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@pytest.mark.parametrize(
    ("case", "dtype"), [slow(LSTM, "float32"), (GRU_BEFORE, "bfloat16")], ids=str
)
def test_low_precision(unroll, case, dtype):
    """The reference is given the same rounded numbers, and computes in float64."""
    problem = Problem.sample(case, SHAPE, learned_h0=True).rounded(dtype)
    controls = sample_controls(SHAPE)
    assert_close(problem.run(dtype, unroll, **controls), problem.expected(**controls), dtype)


@pytest.mark.parametrize(
    ("time", "chunk", "reverse"),
    [
        (6, 3, False),
        slow(6, 3, True),
        (5, 3, True),
        slow(11, 3, False),
        (11, 3, True),
        (4, 1, False),
    ],
)
@jax.enable_x64(True)
def test_chunks_of_any_number_of_steps(time, chunk, reverse):
    """Two whole chunks; one or three and two more steps; chunks of one step."""
    shape = SHAPE._replace(time=time)
    problem = Problem.sample(GRU_AFTER, shape, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(shape)}
    with unroll_with("xla", force_chunks(chunk)) as unroll:
        outcome = problem.run("float64", unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@jax.enable_x64(True)
def test_tuned_for_accelerators():
    """There is none here; what is tuned changes no value anywhere."""
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    controls = sample_controls(SHAPE)
    with unroll_with("xla", ACCELERATOR_TUNING) as unroll:
        outcome = problem.run("float64", unroll, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")


@pytest.mark.parametrize(
    ("time", "reverse"), [(6, False), (7, True), slow(6, True), slow(7, False)]
)
@jax.enable_x64(True)
def test_time_blocks_of_a_forward_pass(time, reverse):
    """Three steps at a time; a state passes from one block to the next."""
    shape = SHAPE._replace(time=time)
    problem = Problem.sample(GRU_AFTER, shape, learned_h0=True)
    inputs = problem.inputs("float64")
    controls = {"reverse": reverse, **sample_controls(shape)}

    def run(implementation, tuning):
        with unroll_with(implementation, tuning) as unroll:

            @jax.jit
            def both(*inputs):
                run = functools.partial(unroll, **controls)
                return run(*inputs), jax.jvp(run, inputs, inputs)

            assert ("length=3" in str(jax.make_jaxpr(both)(*inputs))) == (implementation == "xla")
            return both(*inputs)

    found, expected = run("xla", force_time_blocks(3)), run("scan", SAVING_PREACTIVATIONS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


@rotated("reverse", False, True, fast=(CHUNKS_IN_LOOP,))
@jax.enable_x64(True)
def test_one_feature_and_one_unit(unroll, case, reverse):
    problem = Problem.sample(
        case, ProblemSize(time=7, batch=(2,), input=1, hidden=1), learned_h0=True
    )
    outcome = problem.run("float64", unroll, reverse=reverse)
    assert_close(outcome, problem.expected(reverse=reverse), "float64")


def test_chunks_compute_what_one_chunk_computes():
    """Over so many steps and rows that sums in another order are not the same bits."""
    problem = Problem.sample(LSTM, ProblemSize(time=47, batch=(8,), input=4, hidden=8))
    outcomes = []
    for tuning in (SAVING_PREACTIVATIONS, force_chunks(5, project_in_loop=True, sequences=8)):
        with unroll_with("xla", tuning) as unroll:
            outcomes.append(problem.run("float32", unroll))
    assert_close(*outcomes, "float32")


@pytest.mark.parametrize("variant", [slow("xla"), CHUNKS_IN_LOOP])
@jax.enable_x64(True)
def test_gradients_of_one_argument_and_through_one_result(variant):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    cotangents = jnp.asarray(problem.cotangent_state[0]), jnp.asarray(problem.cotangent_ys)
    controls = sample_controls(SHAPE)

    @jax.jit
    def gradients(*inputs):
        def loss(*results):
            def total(*inputs):
                given = unroll(*inputs, **controls)
                return sum((given[index] * cotangents[index]).sum() for index in results)

            return total

        alone = tuple(jax.grad(loss(0, 1), index)(*inputs) for index in range(3))
        return alone, *(jax.grad(loss(result), (0, 1, 2))(*inputs) for result in (0, 1))

    with unroll_with(*VARIANTS[variant]) as unroll:
        alone, through_h_last, through_ys = gradients(*problem.inputs("float64"))

    def expected(**without):
        return Problem(**{**vars(problem), **without}).expected(**controls).gradients

    assert_close(named(*alone), expected(), "float64")
    nothing = np.zeros_like(problem.cotangent_ys)
    assert_close(named(*through_h_last), expected(cotangent_ys=nothing), "float64")
    assert_close(named(*through_ys), expected(cotangent_state=(nothing[0],)), "float64")


@pytest.mark.parametrize("case", [GRU_AFTER, slow(LSTM)], ids=str)
def test_float32_is_as_exact_as_the_plain_scan(case):
    """The error is at most 1.5 times as large: both add up the same terms in different orders.

    Either may be closer by chance; an algorithm that loses digits loses them at every step.
    """
    shape = ProblemSize(time=150, batch=(4,), input=8, hidden=32)
    cell = case.init(jax.random.key(0), shape.input, shape.hidden, **case.static)
    sampled = Problem.sample(case, shape)
    weights = {name: np.asarray(getattr(cell, name)) for name in sampled.weights}
    problem = Problem(**{**vars(sampled), "weights": weights}).rounded("float32")

    with unroll_with("scan") as unroll:
        plain = problem.run("float32", unroll)
        with jax.enable_x64(True):
            exact = jax.device_get(problem.run("float64", unroll))
    assert exact.ys.dtype == np.float64

    def errors(outcome):
        pairs = {"ys": (outcome.ys, exact.ys)}
        pairs |= {n: (d, exact.gradients[n]) for n, d in outcome.gradients.items()}
        return {
            name: float(np.sqrt(np.mean(np.square(np.asarray(value, np.float64) - true))))
            for name, (value, true) in pairs.items()
        }

    with unroll_with("xla") as unroll:
        for checkpoint in (None, "step"):
            found = errors(problem.run("float32", unroll, checkpoint=checkpoint))
            for name, allowed in errors(plain).items():
                assert found[name] <= 1.5 * allowed, (checkpoint, name)


def transformed(unroll, case, names):
    """What transformations make of unroll, in one program."""
    problem = Problem.sample(case, DERIVED, learned_h0=True)
    inputs = problem.inputs("float64")
    directions = Problem.sample(case, DERIVED, seed=1, learned_h0=True).inputs("float64")
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), inputs[0], directions[0])
    weights = jnp.asarray(problem.cotangent_ys)
    controls = sample_controls(DERIVED)
    del controls["mask"]

    def run(*inputs):
        return unroll(*inputs, **controls)

    def loss(*inputs):
        last, ys = run(*inputs)
        return (weights * ys).sum() + sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(last))

    def of_state(cell, xs, state):
        """The loss as a function of the initial state as one vector."""
        flat, unflatten = jax.flatten_util.ravel_pytree(state)
        return lambda flat: loss(cell, xs, unflatten(flat)), flat

    def hessian(*inputs):
        function, at = of_state(*inputs)
        return jax.jacfwd(jax.jacrev(function))(at)

    def jacrev_of_grad(*inputs):
        function, at = of_state(*inputs)
        return jax.jacrev(jax.grad(function))(at)

    def linearize(*inputs):
        outcome, push = jax.linearize(run, *inputs)
        return outcome, push(*directions)

    transformations = {
        "jvp": lambda *inputs: jax.jvp(run, inputs, directions),
        "jvp of grad": lambda *inputs: jax.jvp(jax.grad(loss), inputs, directions),
        "jacfwd": jax.jacfwd(run, argnums=2),
        "hessian": hessian,
        "jacrev of grad": jacrev_of_grad,
        "vmap": lambda _, *rest: jax.vmap(run, (0, None, None))(ensemble, *rest),
        "vmap of grad": lambda _, *rest: jax.vmap(jax.grad(loss, (0, 1, 2)), (0, None, None))(
            ensemble, *rest
        ),
        "checkpoint": jax.grad(jax.checkpoint(loss), (0, 1, 2)),
        "linearize": linearize,
    }
    return jax.jit(lambda *inputs: {name: transformations[name](*inputs) for name in names})(
        *inputs
    )


@pytest.mark.parametrize(
    ("case", "names"),
    [
        (GRU_AFTER, ("jvp", "jvp of grad", "vmap", "vmap of grad", "linearize")),
        slow(GRU_AFTER, ("jacfwd", "hessian", "jacrev of grad", "checkpoint")),
        slow(GRU_BEFORE, ("jvp", "hessian")),
        slow(LSTM, ("jvp", "hessian")),
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_transformations_see_no_difference(case, names):
    """In chunks, whose derivative is a loop, too; other tests have one chunk."""
    outcomes = []
    for variant in ("scan", CHUNKS_IN_LOOP):
        with unroll_with(*VARIANTS[variant]) as unroll:
            outcomes.append(transformed(unroll, case, names))
    assert_close(*outcomes, "float64")


RESIDUALS = {
    "projected": Tuning(),
    "projected, in chunks": override(Tuning(), chunk={"elements": 1, "min_rows": 6}),
    "states": override(Tuning(), residuals={"save_preactivations": False}),
    "preactivations, operands transposed": dataclasses.replace(
        SAVING_PREACTIVATIONS, max_transposed_ratio=2**10
    ),
}


@pytest.mark.parametrize("variant", RESIDUALS.values(), ids=RESIDUALS)
@pytest.mark.parametrize("case", slow_but([GRU_BEFORE], CASES), ids=str)
@jax.enable_x64(True)
def test_residuals_change_nothing(case, variant):
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    with unroll_with("xla", variant) as unroll:
        outcome = problem.run("float64", unroll)
    assert_close(outcome, problem.expected(), "float64")
