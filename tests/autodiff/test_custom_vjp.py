"""Every transformation of a function with a custom pullback equals that of the plain function."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gru_jax._autodiff.custom_vjp import custom_vjp_with_jvp
from tests.assert_trees import assert_close, assert_equal

INPUT, OUTPUT, ROWS = 3, 2, 4


def plain(mask, x, w):
    return jnp.where(mask, jnp.sin(x @ w), 0.0), jnp.sum(x)


def forward(mask, x, w):
    return plain(mask, x, w), (jnp.where(mask, jnp.cos(x @ w), 0.0), x, w)


def pullback(residuals, cotangent):
    slope, x, w = residuals
    d_sines, d_sum = cotangent
    d_matmul = slope * d_sines
    return None, w @ d_matmul + d_sum, jnp.outer(x, d_matmul)


ruled = custom_vjp_with_jvp(plain, forward, pullback)


def twice(residuals, cotangent):
    return jax.tree.map(lambda leaf: 2 * leaf, pullback(residuals, cotangent))


wrong = custom_vjp_with_jvp(plain, forward, twice)
"""A rule that can be told from the derivative."""


@pytest.fixture
def arguments():
    """A mask, a vector and a matrix, and of each as many as there are rows."""
    with jax.enable_x64(True):
        random = np.random.default_rng(0)
        mask = jnp.array([True, False])
        masks = jnp.asarray(random.uniform(size=(ROWS, OUTPUT)) < 0.6)
        x, w, xs, ws = (
            jnp.asarray(random.normal(size=shape))
            for shape in (
                (INPUT,),
                (INPUT, OUTPUT),
                (ROWS, INPUT),
                (ROWS, INPUT, OUTPUT),
            )
        )
        return (mask, x, w), (masks, xs, ws)


def loss_of(function):
    """A loss of both values that is linear in neither, with second derivatives of every kind."""

    def loss(mask, x, w):
        sines, total = function(mask, x, w)
        return jnp.exp(sines).sum() * total + jnp.square(total)

    return loss


def scan_of(function, wrap=lambda body: body):
    """A scan whose carry is an argument of the function, with one matrix for all steps."""

    def run(mask, xs, w):
        @wrap
        def body(carry, x):
            sines, total = function(mask, jnp.tanh(x + carry), w)
            return carry * total + sines.sum(), sines

        return jax.lax.scan(body, jnp.zeros((), xs.dtype), xs)

    return lambda mask, xs, w: sum(leaf.sum() for leaf in run(mask, xs, w))


GRADIENT = functools.partial(jax.grad, argnums=(1, 2))
FORWARD = functools.partial(jax.jacfwd, argnums=(1, 2))
REVERSE = functools.partial(jax.jacrev, argnums=(1, 2))


def vjp(function):
    def pulled(mask, x, w):
        value, pull = jax.vjp(lambda x, w: function(mask, x, w), x, w)
        return value, pull((jnp.arange(1.0, 1 + OUTPUT), jnp.array(-2.0)))

    return pulled


def jvp(function):
    def pushed(mask, x, w):
        directions = jnp.cos(x), jnp.sin(w)
        return jax.jvp(lambda x, w: function(mask, x, w), (x, w), directions)

    return pushed


def linearized(function):
    """The linear map, applied twice and transposed."""

    def results(mask, x, w):
        value, push = jax.linearize(lambda x, w: function(mask, x, w), x, w)
        pull = jax.linear_transpose(push, x, w)
        return value, push(x, w), push(w[:, 0], -w), pull((jnp.ones(OUTPUT), jnp.array(3.0)))

    return results


OF_ONE = {
    "value": lambda function: function,
    "grad": lambda function: GRADIENT(loss_of(function)),
    "grad of x alone": lambda function: jax.grad(loss_of(function), argnums=1),
    "grad of w alone": lambda function: jax.grad(loss_of(function), argnums=2),
    "grad of the first value alone": lambda function: GRADIENT(lambda *it: function(*it)[0].sum()),
    "grad of the second value alone": lambda function: GRADIENT(lambda *it: function(*it)[1]),
    "vjp": vjp,
    "jvp": jvp,
    "jacfwd": FORWARD,
    "jacrev": REVERSE,
    "linearize": linearized,
    "hessian": lambda function: FORWARD(REVERSE(loss_of(function))),
    "jacrev of jacrev": lambda function: REVERSE(REVERSE(loss_of(function))),
    "jacfwd of jacfwd": lambda function: FORWARD(FORWARD(loss_of(function))),
    "jacrev of jacfwd": lambda function: REVERSE(FORWARD(loss_of(function))),
    "hessian of the values": lambda function: FORWARD(REVERSE(function)),
    "third derivative": lambda function: jax.jacrev(FORWARD(jax.jacrev(loss_of(function), 1)), 1),
    "grad of checkpoint": lambda function: GRADIENT(jax.checkpoint(loss_of(function))),
    "hessian of checkpoint": lambda function: FORWARD(REVERSE(jax.checkpoint(loss_of(function)))),
}
"""Transformations, whose results are functions of a mask, a vector and a matrix."""

MAPPINGS = ((None, 0, None), (None, None, 0), (0, None, None), (0, 0, 0))

OF_ROWS = {
    "vmap of grad of checkpoint": lambda function: jax.vmap(
        GRADIENT(jax.checkpoint(loss_of(function))), (None, 0, None)
    ),
    "vmap of hessian": lambda function: jax.vmap(
        FORWARD(REVERSE(loss_of(function))), (None, 0, None)
    ),
    "grad of vmap": lambda function: GRADIENT(
        lambda mask, xs, w: jax.vmap(loss_of(function), (None, 0, None))(mask, xs, w).sum()
    ),
    "jvp of vmap": lambda function: jvp(jax.vmap(function, (None, 0, None))),
    "grad of scan": lambda function: GRADIENT(scan_of(function)),
    "jvp of scan": lambda function: jvp(scan_of(function)),
    "hessian of scan": lambda function: FORWARD(REVERSE(scan_of(function))),
    "grad of scan of checkpoint": lambda function: GRADIENT(scan_of(function, jax.checkpoint)),
    "vmap of grad of scan": lambda function: (
        lambda mask, xs, w: jax.vmap(GRADIENT(scan_of(function)), (None, None, 2))(
            mask, xs, jnp.stack([w, -w], axis=2)
        )
    ),
}
"""Transformations, whose results are functions of a mask, a vector per row and a matrix."""

# What runs as it is compiles every operation by itself, which takes its time.
UNCOMPILED = ("value", "grad", "grad of x alone", "vjp", "jvp", "jacrev", "linearize")
SECOND = ("hessian", "grad of checkpoint")


def check(transforms, arguments, wrap=jax.jit):
    """Compares what every transformation gives with a rule and without, in one program each."""

    def results(function):
        return lambda *it: {name: transform(function)(*it) for name, transform in transforms}

    expected = jax.jit(results(plain))(*arguments)
    assert_close(wrap(results(ruled))(*arguments), expected, "float64")


@jax.enable_x64(True)
def test_of_one(arguments):
    check(OF_ONE.items(), arguments[0])


@pytest.mark.parametrize("name", [*UNCOMPILED, *SECOND])
@jax.enable_x64(True)
def test_of_one_without_compilation(name, arguments):
    check([(name, OF_ONE[name])], arguments[0], wrap=lambda function: function)


@jax.enable_x64(True)
def test_of_rows(arguments):
    (mask, _, w), (_, xs, _) = arguments
    check(OF_ROWS.items(), (mask, xs, w))


@pytest.mark.parametrize("name", ["grad of vmap", "grad of scan", "grad of scan of checkpoint"])
@jax.enable_x64(True)
def test_of_rows_without_compilation(name, arguments):
    (mask, _, w), (_, xs, _) = arguments
    check([(name, OF_ROWS[name])], (mask, xs, w), wrap=lambda function: function)


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)], ids=str)
@jax.enable_x64(True)
def test_the_value_and_the_rule_are_mapped_alike(mapped, arguments):
    """Although vmap puts its axis elsewhere in the function than in the rule, inside of a jit."""
    _, (_, xs, ws) = arguments

    def function(x, w):
        return w @ (w.T * x), jnp.sum(x)

    def forward(x, w):
        value, total = function(x, w)
        moved = jax.vmap(lambda row: row, out_axes=1)(value).T
        return (moved, total), (x, w)

    def pullback(saved, cotangents):
        return jax.vjp(function, *saved)[1](cotangents)

    def gradient(function):
        def loss(x, w):
            squares, total = jax.jit(function)(x, w)
            return jnp.sum(jnp.cos(squares)) + total

        xs_and_ws = xs[:, 0], jnp.stack([ws[:, :, 0]] * 5, 1)
        picked = [
            leaves if axis == 0 else leaves[0]
            for leaves, axis in zip(xs_and_ws, mapped, strict=True)
        ]
        return jax.grad(lambda *it: jax.vmap(loss, mapped)(*it).sum(), (0, 1))(*picked)

    for map_axes in (0, (1, 0)):
        ruled = custom_vjp_with_jvp(function, forward, pullback, map_axes=map_axes)
        assert_close(gradient(ruled), gradient(function), "float64")


def mapped_gradient(axes):
    def transform(function):
        mapped = jax.vmap(GRADIENT(loss_of(function)), axes)

        def gradient(one, many):
            picked = (i if axis is None else j for i, j, axis in zip(one, many, axes, strict=True))
            return mapped(*picked)

        return gradient

    return transform


def every_pair_gradient(function):
    """Of every matrix with every vector, along axes that are not the first."""

    def gradient(one, many):
        inner = jax.vmap(GRADIENT(loss_of(function)), (None, 1, None))
        both = jax.vmap(inner, (None, None, 2))
        return both(one[0], many[1].T, jnp.moveaxis(many[2], 0, 2))

    return gradient


@pytest.mark.parametrize("wrap", [lambda function: function, jax.jit], ids=["as it is", "compiled"])
@jax.enable_x64(True)
def test_vmap_of_grad(wrap, arguments):
    transforms = {str(axes): mapped_gradient(axes) for axes in MAPPINGS}
    check([*transforms.items(), ("every pair", every_pair_gradient)], arguments, wrap)


@jax.enable_x64(True)
def test_gradients_of_what_is_not_mapped_add_up(arguments):
    (mask, _, w), (_, xs, _) = arguments
    loss = loss_of(ruled)
    each = jax.vmap(jax.grad(loss, 2), (None, 0, None))(mask, xs, w)
    together = jax.grad(lambda w: jax.vmap(loss, (None, 0, None))(mask, xs, w).sum())(w)
    assert_close(together, each.sum(0), "float64")


LINEAR = {
    "as it is": lambda function: lambda mask, x, w: function(mask, x, w)[0].sum(),
    "compiled": lambda function: jax.jit(lambda mask, x, w: function(mask, x, w)[0].sum()),
    "checkpoint": lambda function: jax.checkpoint(lambda *it: function(*it)[0].sum()),
    "vmap": lambda function: (
        lambda mask, x, w: jax.vmap(function, (None, None, 0))(mask, x, jnp.stack([w, 2 * w]))[
            0
        ].sum()
    ),
    "scan": lambda function: (
        lambda mask, x, w: jax.lax.scan(
            lambda total, scale: (total + function(mask, x, scale * w)[0].sum(), None),
            jnp.zeros(()),
            jnp.arange(1.0, 3.0),
        )[0]
    ),
}
"""Losses to which every call of the function contributes by itself."""


@pytest.mark.parametrize("name", LINEAR)
@jax.enable_x64(True)
def test_reverse_mode_takes_the_pullback_and_forward_mode_does_not(name, arguments):
    one, _ = arguments
    expected = GRADIENT(LINEAR[name](plain))(*one)
    assert_close(GRADIENT(LINEAR[name](wrong))(*one), (2 * expected[0], 2 * expected[1]), "float64")
    assert_close(FORWARD(LINEAR[name](wrong))(*one), expected, "float64")


@jax.enable_x64(True)
def test_only_the_transposition_takes_the_pullback_in_second_derivatives(arguments):
    """Forward mode doubles a gradient, and leaves a tangent as it is."""
    one, _ = arguments

    def loss(function):
        return lambda *it: function(*it)[0].sum()

    expected = FORWARD(FORWARD(loss(plain)))(*one)
    assert_close(FORWARD(FORWARD(loss(wrong)))(*one), expected, "float64")
    doubled = jax.tree.map(lambda leaf: 2 * leaf, expected)
    assert_close(FORWARD(REVERSE(loss(wrong)))(*one), doubled, "float64")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_residuals_arrive_as_forward_leaves_them(wrap):
    """Trees of any dtype, with leaves that the value does not contain."""

    def forward(x):
        return x.sum(), {"flags": x > 0, "nothing": None, "arrays": (jnp.arange(3), 10 * x)}

    def pullback(residuals, cotangent):
        counts, scaled = residuals["arrays"]
        positive = jnp.where(residuals["flags"], scaled + counts.astype(scaled.dtype), 0.0)
        return (cotangent * positive,)

    function = wrap(custom_vjp_with_jvp(jnp.sum, forward, pullback))
    x = jnp.array([1.0, -1.0, 3.0])
    assert_equal(jax.grad(function)(x), jnp.array([10.0, 0.0, 32.0]))
    expected = jnp.array([[10.0, 0.0, 32.0], [0.0, 11.0, 0.0]])
    assert_equal(jax.vmap(jax.grad(function))(jnp.stack([x, -x])), expected)


def test_forward_runs_only_where_something_is_differentiated():
    runs = []

    def forward(mask, x, w):
        runs.append(mask)
        return plain(mask, x, w), (x, w)

    def pullback(residuals, cotangent):
        return (None, *residuals)

    function = custom_vjp_with_jvp(plain, forward, pullback)
    arguments = jnp.array([True, False]), jnp.ones(INPUT), jnp.ones((INPUT, OUTPUT))
    function(*arguments)
    jax.jit(function)(*arguments)
    assert not runs
    jax.grad(lambda *it: function(*it)[1], argnums=1)(*arguments)
    assert runs


@jax.enable_x64(True)
def test_arguments_may_be_trees(arguments):
    """The pullback returns one tree for each argument."""

    def function(pair, scale):
        return {"y": pair["x"] @ pair["w"] * scale}

    def forward(pair, scale):
        return function(pair, scale), (pair, scale)

    def pullback(residuals, cotangent):
        pair, scale = residuals
        d = cotangent["y"]
        scaled = scale * d
        tree = {"x": pair["w"] @ scaled, "w": jnp.outer(pair["x"], scaled)}
        return tree, (pair["x"] @ pair["w"] * d).sum()

    (_, x, w), _ = arguments
    of_trees = custom_vjp_with_jvp(function, forward, pullback)
    inputs = {"x": x, "w": w}, jnp.array(1.5)
    results = [
        jax.grad(lambda *it, call=call: jnp.exp(call(*it)["y"]).sum(), (0, 1))(*inputs)
        for call in (of_trees, function)
    ]
    assert_close(*results, "float64")
