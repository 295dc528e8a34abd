"""The one-block kernels: values and gradients (interpreted), and transformations."""

import contextlib
import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from experiments.bench.gpu import checks
from gru_jax._unroll import dispatch
from gru_jax._unroll.fused import one_block
from gru_jax._unroll.fused.interface import RESET, VALID
from gru_jax._unroll.fused.one_block import reference
from gru_jax._unroll.fused.one_block.gru import run, run_both
from gru_jax._unroll.fused.one_block.interface import (
    RESIDUAL_DTYPE,
    BackwardArgs,
    ForwardArgs,
)
from gru_jax._unroll.fused.transforms import with_transform_rules
from tests.cells.cases import GRU_AFTER, Problem
from tests.shapes import SHAPES, ProblemSize
from tests.slow import slow
from tests.unroll.fused.block_interpreter import interpret, needs_mma  # noqa: F401
from tests.unroll.test_implementations import SHAPE, sample_controls

ROUNDINGS = 8
"""Units of the operands' last place that a result may be off, relative to the largest."""


def assert_near(actual, expected, dtype):
    """Compares to the rounding of the matmuls' operands; float32 is rounded to float16."""
    operand = jnp.float16 if dtype == "float32" else dtype
    tolerance = ROUNDINGS * float(jnp.finfo(operand).eps)

    def check(path, got, want):
        if isinstance(want, jax.Array):
            assert got.dtype == want.dtype
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape
        error = np.abs(got - want).max(initial=0) / max(1.0, np.abs(want).max(initial=0))
        assert error <= tolerance, f"{jax.tree_util.keystr(path)}: {error:.1e} > {tolerance:.1e}"

    jax.tree_util.tree_map_with_path(check, actual, expected)


def sample_args(copies, time, batch, hidden, dtype="float32", *, has_flags=True, reverse=False):
    """Random arguments of the two kernels; the directions of copies alternate."""
    keys = iter(jax.random.split(jax.random.key(batch), 20))

    def normal(*shape):
        return jax.random.normal(next(keys), shape)

    flags = (
        jax.random.choice(
            next(keys), jnp.array([VALID, VALID, VALID | RESET, RESET, 0]), (copies, time, batch)
        )
        if has_flags
        else None
    )
    w_h = (normal(copies, hidden, 3 * hidden) / hidden**0.5).astype(dtype)
    directions = (jnp.arange(copies) + int(reverse)) % 2
    forward_args = ForwardArgs(
        projected=normal(copies, time, batch, 3 * hidden),
        w_h=w_h,
        b_hn=normal(copies, hidden),
        h0=jnp.tanh(normal(copies, batch, hidden)),
        reset_state=normal(copies, hidden),
        reverse=directions,
        flags=flags,
    )
    backward_args = BackwardArgs(
        d_ys=normal(copies, time, batch, hidden).astype(dtype),
        states_before=jnp.tanh(normal(copies, time, batch, hidden)).astype(dtype),
        preactivations=normal(copies, time, batch, 4 * hidden).astype(RESIDUAL_DTYPE),
        w_h=w_h,
        d_h_last=normal(copies, batch, hidden),
        reverse=directions,
        flags=flags,
    )
    return forward_args, backward_args


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "copies", "time", "batch", "hidden", "dtype", "has_flags", "reverse"),
    [
        (8, 2, 2, 1, 64, "float32", True, True),
        (8, 1, 3, 9, 64, "float32", False, True),
        (8, 1, 3, 8, 128, "float32", True, True),
        (8, 3, 1, 17, 128, "float16", True, False),
        (16, 1, 4, 3, 64, "float32", False, False),
        (16, 1, 3, 17, 64, "bfloat16", True, False),
        (16, 2, 3, 16, 128, "bfloat16", True, False),
        (8, 2, 3, 8, 192, "float32", True, False),
    ],
)
def test_the_kernels_compute_the_reference(
    tile,
    copies,
    time,
    batch,
    hidden,
    dtype,
    has_flags,
    reverse,
    interpret,  # noqa: F811
):
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    # Tiles that share sequences write the same values to the same place.
    detect_races = batch <= tile or batch % tile == 0
    kernels = make_kernels(108 if tile == 8 else 0, interpret=interpret(detect_races=detect_races))
    forward_args, backward_args = sample_args(
        copies, time, batch, hidden, dtype, has_flags=has_flags, reverse=reverse
    )
    options = {"dtype": jnp.dtype(dtype), "save": True}
    got = kernels.forward(forward_args, **options)
    want = reference.forward(forward_args, **options)
    assert_near(got, want, dtype)
    got, want = kernels.backward(backward_args), reference.backward(backward_args)
    assert_near(got, want, dtype)


def test_a_masked_step_holds_the_state_bit_for_bit(interpret):  # noqa: F811
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    args, _ = sample_args(1, 3, 8, 64)
    args = args._replace(flags=jnp.zeros_like(args.flags))
    kernels = make_kernels(108, interpret=interpret(detect_races=True))
    result = kernels.forward(args, dtype=jnp.float32, save=False)
    assert result.preactivations is None
    assert (np.asarray(result.states) == np.asarray(args.h0)[:, None]).all()
    assert (np.asarray(result.h_last) == np.asarray(args.h0)).all()


@contextlib.contextmanager
def unroll_by(kernels):
    """``unroll`` by one-block kernels, or by their references."""
    from gru_jax._unroll.fused.one_block.kernels import INTERFACE

    kernels = with_transform_rules(kernels, INTERFACE)
    implementation = types.SimpleNamespace(
        unsupported_reasons=lambda spec: [],
        run=functools.partial(run, kernels=kernels),
        supports_both=lambda specs: True,
        run_both=functools.partial(run_both, kernels=kernels),
        describe=one_block.describe,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dispatch.IMPLEMENTATIONS, "one_block", implementation)
        jax.clear_caches()
        yield functools.partial(gru_jax.unroll, implementation="one_block")
    jax.clear_caches()


@pytest.fixture(scope="module")
def plain_unroll():
    if jax.__version_info__ < one_block.MIN_JAX:
        pytest.skip("needs plgpu.mma of jax 0.11")
    from gru_jax._unroll.fused.one_block.kernels import REFERENCES

    with unroll_by(REFERENCES) as unroll:
        yield unroll


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(plain_unroll, shape):
    problem = Problem.sample(GRU_AFTER, shape)
    assert_near(problem.run("float32", plain_unroll), problem.expected(), "float32")


@pytest.mark.parametrize(
    ("reverse", "checkpoint"),
    [(True, None), slow(False, None), slow(False, "step"), slow(True, "chunk")],
)
def test_all_controls(plain_unroll, reverse, checkpoint):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    controls = {"reverse": reverse, **sample_controls(SHAPE)}
    outcome = problem.run("float32", plain_unroll, checkpoint=checkpoint, **controls)
    assert_near(outcome, problem.expected(**controls), "float32")


def controls_of(shape):
    """Lengths, a mask and starts for any batch."""
    random = np.random.default_rng(5)
    steps = (shape.time, *shape.batch)
    return {
        "lengths": random.integers(0, shape.time + 1, shape.batch),
        "mask": random.uniform(size=steps) < 0.8,
        "starts": random.uniform(size=steps) < 0.3,
    }


@pytest.mark.slow
def test_interpreted_sequences_and_their_gradients(interpret):  # noqa: F811
    """Against a NumPy loop in float64, for odd numbers of units and sequences."""
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    shape = ProblemSize(3, (9,), 2, 5)
    problem = Problem.sample(GRU_AFTER, shape, learned_h0=True)
    controls = controls_of(shape)
    with unroll_by(make_kernels(108, interpret=interpret())) as unroll:
        outcome = problem.run("float32", unroll, **controls)
    assert_near(outcome, problem.expected(**controls), "float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "reverse"),
    [(ProblemSize(4, (3,), 2, 100), True), (ProblemSize(4, (2, 9), 3, 180), False)],
    ids=str,
)
def test_interpreted_sequences_of_several_warpgroups(shape, reverse, interpret):  # noqa: F811
    """Against ``lax.scan`` in float64: the NumPy loop would run once for each weight."""
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    problem = Problem.sample(GRU_AFTER, shape, learned_h0=True)
    # Elements of 1 would make a map that amplifies what is rounded.
    weights = {**problem.weights, "w_h": problem.weights["w_h"] / shape.hidden**0.5}
    problem = dataclasses.replace(problem, weights=weights)
    controls = {"reverse": reverse, **controls_of(shape)}
    with jax.enable_x64(True):
        scan = functools.partial(gru_jax.unroll, implementation="scan")
        expected = jax.tree.map(np.asarray, problem.run("float64", scan, **controls))
    with unroll_by(make_kernels(108, interpret=interpret())) as unroll:
        outcome = problem.run("float32", unroll, **controls)
    assert_near(outcome, expected, "float32")


def mapped_gradients(unroll, over):
    """Gradients under vmap over sequences, weights, or weights within weights and sequences."""
    problem = Problem.sample(GRU_AFTER, ProblemSize(3, (2,), 2, 5))
    cell, xs, state = problem.inputs("float32")
    starts = jnp.arange(6).reshape(3, 2) % 3 == 1
    cells = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), cell)
    nested = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), cells)

    def gradient(cell, xs, state, starts):
        def loss(cell, xs, state):
            last, ys = unroll(cell, xs, state, starts=starts)
            return (last**2).sum() + (ys**3).sum()

        return jax.grad(loss, (0, 1, 2))(cell, xs, state)

    if over == "sequences":
        return jax.jit(jax.vmap(gradient, (None, 1, 0, 1)))(cell, xs, state, starts)
    if over == "weights":
        return jax.jit(jax.vmap(gradient, (0, None, None, None)))(cells, xs, state, starts)
    by_seed = jax.vmap(gradient, (0, None, None, None))
    return jax.jit(jax.vmap(by_seed, (0, 0, None, None)))(
        nested, jnp.stack([xs, -xs]), state, starts
    )


@pytest.mark.parametrize("over_weights", [False, True])
def test_vmap_over_nothing(over_weights, plain_unroll):
    cell, xs, state = Problem.sample(GRU_AFTER, ProblemSize(3, (2,), 2, 5)).inputs("float32")
    nothing = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape)), (cell, xs, state))
    arguments = (nothing[0] if over_weights else cell, *nothing[1:])

    def loss(cell, xs, state):
        return plain_unroll(cell, xs, state)[1].sum()

    axes = (0 if over_weights else None, 0, 0)
    values, of_xs = jax.vmap(jax.value_and_grad(loss, 1), axes)(*arguments)
    assert values.shape == (0,)
    assert of_xs.shape == (0, *xs.shape)


@pytest.mark.slow
@pytest.mark.parametrize("over", ["sequences", "weights", "weights twice"])
def test_vmap(over, plain_unroll):
    plain = functools.partial(gru_jax.unroll, implementation="scan")
    assert_near(mapped_gradients(plain_unroll, over), mapped_gradients(plain, over), "float32")


@pytest.mark.slow
@pytest.mark.parametrize("over", ["sequences", "weights twice"])
def test_vmap_interpreted(over, interpret):  # noqa: F811
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    plain = functools.partial(gru_jax.unroll, implementation="scan")
    with unroll_by(make_kernels(108, interpret=interpret())) as unroll:
        got = mapped_gradients(unroll, over)
    assert_near(got, mapped_gradients(plain, over), "float32")


def outcome_of_both_directions(implementation, *, over_seeds):
    """Values and gradients of a bidirectional layer, mapped over two seeds or not."""
    shape = ProblemSize(4, (3,), 2, 5)
    init = functools.partial(gru_jax.init_stack, bidirectional=True, learned_h0=True)
    stacks = [init(jax.random.key(seed), shape.input, shape.hidden) for seed in range(2)]
    xs = jax.random.normal(jax.random.key(2), (shape.time, *shape.batch, shape.input))
    controls = controls_of(shape)

    def loss(stack, xs):
        states, ys = gru_jax.unroll_stack(stack, xs, implementation=implementation, **controls)
        return sum((state**2).sum() for state in states[0]) + (ys**3).sum(), (states, ys)

    outcome = jax.value_and_grad(loss, (0, 1), has_aux=True)
    if not over_seeds:
        return jax.jit(outcome)(stacks[0], xs)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stacks)
    return jax.jit(jax.vmap(outcome, (0, None)))(both, xs)


@pytest.mark.slow
@pytest.mark.parametrize("over_seeds", [False, True], ids=["one", "two seeds"])
def test_both_directions_at_once(over_seeds, plain_unroll):
    got = outcome_of_both_directions("one_block", over_seeds=over_seeds)
    assert_near(got, outcome_of_both_directions("scan", over_seeds=over_seeds), "float32")


@pytest.mark.slow
def test_both_directions_interpreted(interpret):  # noqa: F811
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    with unroll_by(make_kernels(108, interpret=interpret())):
        got = outcome_of_both_directions("one_block", over_seeds=True)
    assert_near(got, outcome_of_both_directions("scan", over_seeds=True), "float32")


@needs_mma
@pytest.mark.slow
def test_forward_mode_and_second_derivatives(plain_unroll):
    problem = Problem.sample(GRU_AFTER, ProblemSize(3, (2,), 2, 3))
    cell, xs, state = problem.inputs("float32")

    def derivatives(unroll):
        def loss(xs):
            last, ys = unroll(cell, xs, state)
            return (last**2).sum() + (ys**3).sum()

        return jax.jit(lambda xs: (jax.jacfwd(loss)(xs), jax.hessian(loss)(xs)))(xs)

    plain = functools.partial(gru_jax.unroll, implementation="scan")
    assert_near(derivatives(plain_unroll), derivatives(plain), "float32")


@needs_mma
@pytest.mark.slow
@pytest.mark.parametrize("exponent", [-100, -20, 0, 20, 100])
def test_cotangents_of_any_scale_fit_float16(exponent):
    """The scale is a power of two, the largest cotangent of a sequence just below 16."""
    from gru_jax._unroll.fused.one_block.kernels import SCALED_EXPONENT, _scale_exponent

    _, args = sample_args(2, 3, 5, 64)
    scale = 2.0**exponent
    args = args._replace(d_ys=args.d_ys * scale, d_h_last=args.d_h_last * scale)
    chosen = _scale_exponent(args)
    valid = np.asarray(args.flags & VALID != 0)[..., None]
    largest = np.abs(np.where(valid, args.d_ys, 0)).max((1, 3))
    largest = np.maximum(largest, np.abs(args.d_h_last).max(-1))
    scaled = largest.astype(np.float64) * 2.0 ** np.asarray(chosen, np.float64)
    assert ((scaled >= 2 ** (SCALED_EXPONENT - 1)) & (scaled < 2**SCALED_EXPONENT)).all()


@pytest.mark.slow
def test_what_does_not_fit_float16_is_computed_by_the_reference(interpret):  # noqa: F811
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    kernels = make_kernels(108, interpret=interpret())
    forward_args, backward_args = sample_args(1, 3, 8, 64, has_flags=False)
    options = {"dtype": jnp.float32, "save": True}
    large = forward_args._replace(h0=forward_args.h0 * 1e6)
    got, want = kernels.forward(large, **options), reference.forward(large, **options)
    assert_near(got[:2], want[:2], "float32")
    # Each step multiplies the cotangent by about a thousand, which float16 holds but once.
    exploding = backward_args._replace(w_h=backward_args.w_h * 1e4)
    got, want = kernels.backward(exploding), reference.backward(exploding)
    assert jnp.isfinite(got.d_h0).all()
    assert_near(got, want, "float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "dtype"),
    [
        (checks.smoke, "bfloat16"),
        (checks.with_x64, "float32"),
        (checks.under_vmap_over_weights, "float32"),
        (checks.both_directions, "float32"),
        (checks.beyond_float16, "float32"),
    ],
)
def test_the_checks_of_a_gpu_pass_interpreted(check, dtype, interpret):  # noqa: F811
    from gru_jax._unroll.fused.one_block.kernels import make_kernels

    with unroll_by(make_kernels(108, interpret=interpret())):
        check(checks.CheckConfig("one_block", dtype=dtype), 5)  # pyright: ignore[reportArgumentType]
