"""What compiled programs multiply, write and allocate."""

import functools
from collections.abc import Iterator

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll import call_spec
from gru_jax._unroll.xla.tuning import CPU_TUNING, Tuning
from tests.cells.cases import CASES, GRU_AFTER, GRU_BEFORE, Problem
from tests.shapes import ProblemSize
from tests.slow import slow
from tests.unroll.tuning_overrides import SAVING_PREACTIVATIONS, force_chunks, override, unroll_with

SHAPE = ProblemSize(time=7, batch=(2,), input=2, hidden=3)


@pytest.fixture(autouse=True)
def on_one_device(monkeypatch):
    """A program that XLA may partition over several contains what each device runs, too."""
    monkeypatch.setattr(call_spec, "count_devices", lambda device: 1)


def equations(jaxpr) -> Iterator[jax.extend.core.JaxprEqn]:
    """All of a program, those of the programs within it, too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if isinstance(inner, jax.extend.core.ClosedJaxpr):
                yield from equations(inner.jaxpr)


@pytest.mark.parametrize("implementation", ["xla", "scan"])
@pytest.mark.parametrize("mask", [None, np.ones((7, 2), bool)], ids=["all", "masked"])
def test_the_loop_writes_its_carry_alone(implementation, mask):
    """Outputs get their dtype and their zeros after it.

    In it, they are a second array; one in bfloat16 took time quadratic in the number of steps on
    a CPU with JAX 0.10, which converts all of it at each.
    """
    params, xs, _ = Problem.sample(GRU_AFTER, SHAPE).inputs("bfloat16")
    with unroll_with(implementation) as unroll:
        program = jax.make_jaxpr(functools.partial(unroll, mask=mask))(params, xs)
    (loop,) = (found for found in equations(program.jaxpr) if found.primitive.name == "scan")
    carried, written = loop.params["jaxpr"].jaxpr.outvars
    assert written is carried
    assert program.out_avals[-1].dtype == jnp.bfloat16


@pytest.mark.parametrize("implementation", ["xla", "scan"])
@pytest.mark.parametrize("tuning", [force_chunks(3), force_chunks(3, project_in_loop=True)])
def test_one_feature_is_a_matmul(implementation, tuning):
    """Otherwise XLA fuses it with the gates, and vectorises none on a CPU."""
    inputs = Problem.sample(GRU_AFTER, SHAPE._replace(input=1)).inputs("float32")
    with unroll_with(implementation, tuning) as unroll:
        program = jax.make_jaxpr(unroll)(*inputs)
    matmuls = [found for found in equations(program.jaxpr) if found.primitive.name == "dot_general"]
    contracted = set()
    for matmul in matmuls:
        ((axis,), _), _ = matmul.params["dimension_numbers"]
        contracted.add(matmul.invars[0].aval.shape[axis])
    assert contracted == {2, SHAPE.hidden}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loop_multiplies_weights_as_it_gets_them(case):
    """The gates' weights are concatenated, and splitting them is a copy at each step."""
    inputs = Problem.sample(case, SHAPE).inputs("float32")
    with unroll_with("xla") as unroll:
        program = jax.make_jaxpr(unroll)(*inputs)
    (loop,) = (found for found in equations(program.jaxpr) if found.primitive.name == "scan")
    body = loop.params["jaxpr"].jaxpr
    matmuls = [found for found in body.eqns if found.primitive.name == "dot_general"]
    assert matmuls
    for _, weights in (matmul.invars for matmul in matmuls):
        assert weights in body.invars


@pytest.mark.parametrize("case", [GRU_AFTER, GRU_BEFORE], ids=str)
def test_the_candidate_is_read_once(case):
    """Otherwise JAX 0.12 does not vectorise the gates of a small loop on a CPU."""
    cell, xs, state = Problem.sample(case, SHAPE).inputs("float32")
    program = list(equations(jax.make_jaxpr(gru_jax.step)(cell, state, xs[0]).jaxpr))
    (candidate,) = (found.outvars[0] for found in program if found.primitive.name == "tanh")
    assert sum(candidate in found.invars for found in program) == 1


@pytest.mark.parametrize(
    ("sizes", "shards"),
    [((800, 16, 400), 1), ((40, 256, 400), 1), ((800, 16, 256), 2)],
    ids=str,
)
def test_a_forward_pass_does_not_write_all_projected_inputs(sizes, shards):
    """If they are many: in time blocks, or step by step if a block has few steps."""
    time, batch, units = sizes
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), 64, units))
    xs = jax.ShapeDtypeStruct((time, batch, 64), jnp.float32)
    with unroll_with("xla", override(CPU_TUNING, shards={"max_shards": shards})) as unroll:
        memory = jax.jit(unroll).lower(params, xs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * time * batch * 3 * units / 4


@pytest.fixture(scope="module")
def working_memory():
    """Bytes that a gradient needs besides arguments and results, by implementation and policy."""
    problem = Problem.sample(GRU_AFTER, ProblemSize(time=64, batch=(8,), input=16, hidden=32))
    inputs = problem.inputs("float32")

    def measure(implementation, checkpoint, tuning=SAVING_PREACTIVATIONS):
        with unroll_with(implementation, tuning) as unroll:

            def loss(*inputs):
                return unroll(*inputs, checkpoint=checkpoint)[1].sum()

            compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return {
        "scan": measure("scan", None),
        "saving everything": measure("xla", None),
        "one chunk": measure("xla", "step"),
        "chunks": measure("xla", "step", force_chunks(8, sequences=8)),
    }


def test_residuals_take_less_than_those_of_the_scan(working_memory):
    assert working_memory["saving everything"] <= working_memory["scan"]


@pytest.mark.parametrize("extent", ["one chunk", "chunks"])
def test_recomputing_gates_takes_half_the_memory(extent, working_memory):
    """Two arrays of each step are saved, its input and its state; a scan saves a dozen."""
    assert working_memory[extent] <= 0.5 * working_memory["scan"]


TIMES_SEQUENCES_FEATURES_UNITS = {
    "a small step": ((512, 1, 64, 64), "projected"),
    "more than a small step": ((512, 2, 64, 128), "preactivations"),
    "within the budget": ((256, 32, 64, 128), "preactivations"),
    "within it with small chunks": ((80, 32, 64, 384), "preactivations"),
    "few units": ((64, 128, 32, 32), "projected"),
    "beyond the budget": ((512, 64, 32, 64), "states"),
    "but matmuls are large": ((512, 16, 256, 512), "preactivations"),
}


@pytest.mark.parametrize(
    ("sizes", "what"),
    TIMES_SEQUENCES_FEATURES_UNITS.values(),
    ids=TIMES_SEQUENCES_FEATURES_UNITS,
)
def test_the_residuals_are_the_fastest(sizes, what):
    """Three projected or four preactivations of each step, or the states alone, as with "step"."""
    time, batch, inputs, units = sizes
    params = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), inputs, units))
    xs = jax.ShapeDtypeStruct((time, batch, inputs), jnp.float32)

    def residual_size(checkpoint, tuning):
        with unroll_with("xla", tuning) as unroll:
            _, pull = jax.eval_shape(
                lambda *inputs: jax.vjp(
                    lambda *inputs: unroll(*inputs, checkpoint=checkpoint)[1], *inputs
                ),
                params,
                xs,
            )
        return sum(leaf.size for leaf in jax.tree.leaves(pull))

    states_only = residual_size("step", Tuning())
    saving_none = override(Tuning(), residuals={"save_preactivations": False})
    assert residual_size(None, saving_none) == states_only
    more = {"states": 0, "projected": 3, "preactivations": 4}[what]
    assert residual_size(None, Tuning()) == states_only + more * time * batch * units


INITS_AND_SIZES = {
    "preactivations are saved": (gru_jax.init, (240, 32, 64, 128)),
    "in smaller chunks": (gru_jax.init, (72, 32, 64, 384)),
    "wide, in smaller chunks": (gru_jax.init, (200, 8, 128, 512)),
    "preactivations are recomputed": (gru_jax.init, (240, 64, 64, 128)),
    "projection hoisted": (gru_jax.init, (1500, 4, 64, 160)),
    "LSTM": (gru_jax.init_lstm, (90, 32, 32, 256)),
    "RNN": (gru_jax.init_rnn, (192, 32, 64, 256)),
}
QUICK = ("preactivations are saved", "preactivations are recomputed", "projection hoisted")


@pytest.mark.parametrize(
    ("init", "sizes"),
    [
        pytest.param(*values, marks=[] if name in QUICK else pytest.mark.slow, id=name)
        for name, values in INITS_AND_SIZES.items()
    ],
)
@pytest.mark.parametrize("shards", [slow(1), 2])
def test_a_gradient_needs_no_newly_mapped_memory(init, sizes, shards):
    """glibc returns more than 32 MiB to the kernel after each call."""
    time, batch, inputs, units = sizes
    params = jax.eval_shape(lambda: init(jax.random.key(0), inputs, units))
    xs = jax.ShapeDtypeStruct((time, batch, inputs), jnp.float32)
    with unroll_with("xla", override(CPU_TUNING, shards={"max_shards": shards})) as unroll:
        loss = jax.jit(jax.grad(lambda *inputs: jnp.sum(unroll(*inputs)[1] ** 2), (0, 1)))
        memory = loss.lower(params, xs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**25


@pytest.mark.parametrize(
    ("num_layers", "bidirectional", "time", "shards"),
    [
        (1, True, 160, 2),
        slow(2, False, 145, 2),
        slow(3, False, 90, 2),
        slow(2, True, 64, 2),
        (2, True, 64, 1),
        slow(1, True, 160, 1),
        slow(2, False, 145, 1),
        slow(3, False, 90, 1),
    ],
)
def test_the_layers_of_a_stack_share_that_memory(num_layers, bidirectional, time, shards):
    stack = jax.eval_shape(
        lambda: gru_jax.init_stack(
            jax.random.key(0), 32, 64, num_layers=num_layers, bidirectional=bidirectional
        )
    )
    xs = jax.ShapeDtypeStruct((time, 64, 32), jnp.float32)
    with unroll_with("xla", override(CPU_TUNING, shards={"max_shards": shards})):
        loss = jax.grad(lambda *inputs: jnp.sum(gru_jax.unroll_stack(*inputs)[1] ** 2), (0, 1))
        memory = jax.jit(loss).lower(stack, xs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**25
