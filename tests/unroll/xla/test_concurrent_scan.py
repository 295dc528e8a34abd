"""Shards of a batch that run concurrently: the same values, in buffers that no two share."""

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_jax
from gru_jax._unroll import call_spec
from gru_jax._unroll.xla import run as xla
from gru_jax._unroll.xla.tuning import Tuning
from tests.assert_trees import assert_close
from tests.cells.cases import GRU_AFTER, GRU_BEFORE, LSTM, RNN, Problem
from tests.shapes import ProblemSize
from tests.slow import slow, slow_but
from tests.unroll.tuning_overrides import force_chunks, force_time_blocks, override, unroll_with

# Three shards, of one, two and two sequences; chunks of three steps, and a last one of one step.
SHAPE = ProblemSize(time=7, batch=(5,), input=2, hidden=3)
LENGTHS = np.array([7, 0, 3, 6, 1])
STARTS = np.random.default_rng(0).random((7, 5)) < 0.4


def in_shards(shards: int, tuning: Tuning | None = None) -> Tuning:
    return override(
        tuning or force_chunks(3, sequences=SHAPE.batch[0]),
        shards={"max_shards": shards, "min_rows": 1, "threshold": 0},
    )


@pytest.fixture
def shards_seen(monkeypatch):
    """How many shards each forward pass had; there is one device."""
    seen = []
    real = xla.concurrent_scan

    def counting(*arguments, shards, **options):
        seen.append(len(shards))
        return real(*arguments, shards=shards, **options)

    monkeypatch.setattr(xla, "concurrent_scan", counting)
    monkeypatch.setattr(call_spec, "count_devices", lambda device: 1)
    return seen


@pytest.mark.parametrize(
    ("case", "project_in_loop", "checkpoint", "controls"),
    [
        (GRU_AFTER, True, None, {}),
        (GRU_AFTER, False, "step", {"reverse": True, "lengths": LENGTHS}),
        (GRU_AFTER, True, None, {"starts": STARTS, "lengths": LENGTHS}),
        slow(GRU_BEFORE, False, None, {"starts": STARTS, "reverse": True}),
        slow(LSTM, True, "step", {"starts": STARTS, "mask": ~STARTS}),
        slow(GRU_BEFORE, True, "step", {"lengths": LENGTHS}),
        slow(GRU_BEFORE, False, None, {"reverse": True}),
        slow(LSTM, True, None, {"lengths": LENGTHS}),
        slow(RNN, True, None, {"reverse": True}),
    ],
    ids=str,
)
@jax.enable_x64(True)
def test_against_the_reference(case, project_in_loop, checkpoint, controls, shards_seen):
    problem = Problem.sample(case, SHAPE, learned_h0=True)
    chunks = force_chunks(3, project_in_loop=project_in_loop, sequences=SHAPE.batch[0])
    with unroll_with("xla", in_shards(3, chunks)) as unroll:
        outcome = problem.run("float64", unroll, checkpoint=checkpoint, **controls)
    assert_close(outcome, problem.expected(**controls), "float64")
    assert set(shards_seen) == {3}


@pytest.mark.parametrize(
    "controls", [{}, {"reverse": True}, {"reverse": True, "lengths": LENGTHS}], ids=str
)
@jax.enable_x64(True)
def test_time_blocks_of_shards(controls, shards_seen):
    """Without a gradient: three steps each, and one step left."""
    inputs = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True).inputs("float64")
    with unroll_with("scan") as unroll:
        expected = unroll(*inputs, **controls)
    blocks = force_time_blocks(3, sequences=SHAPE.batch[0])
    with unroll_with("xla", in_shards(3, blocks)) as unroll:
        assert_close(unroll(*inputs, **controls), expected, "float64")
    # Traced for the loop over the blocks, for the type of its outputs, and for the rest.
    assert set(shards_seen) == {3}


def test_shards_of_a_cell_that_fits_in_a_cache_have_no_time_blocks(shards_seen):
    blocks = force_time_blocks(3, sequences=SHAPE.batch[0])
    trace_in_shards(tuning=in_shards(3, override(blocks, projection={"max_params": 10**9})))
    assert shards_seen == [3]


@pytest.mark.parametrize(
    "names",
    [
        ("jvp", "jvp of grad"),
        slow(("vmap of grad", "checkpoint", "hessian")),
    ],
    ids=", ".join,
)
@jax.enable_x64(True)
def test_transformations_see_no_difference(names, shards_seen):
    problem = Problem.sample(GRU_AFTER, SHAPE, learned_h0=True)
    cell, xs, state = problem.inputs("float64")
    directions = Problem.sample(GRU_AFTER, SHAPE, seed=1, learned_h0=True).inputs("float64")
    ensemble = jax.tree.map(lambda *leaves: jnp.stack(leaves), cell, directions[0])

    def transformed(unroll):
        def loss(*inputs):
            last, ys = unroll(*inputs)
            return jnp.sum(ys**3) + jnp.sum(last**2)

        results = {
            "jvp": lambda: jax.jvp(unroll, (cell, xs, state), directions),
            "jvp of grad": lambda: jax.jvp(jax.grad(loss), (cell, xs, state), directions),
            "hessian": lambda: jax.hessian(lambda state: loss(cell, xs, state))(state),
            "vmap of grad": lambda: jax.vmap(jax.grad(loss), (0, None, None))(ensemble, xs, state),
            "checkpoint": lambda: jax.grad(jax.checkpoint(loss))(cell, xs, state),
        }
        return {name: results[name]() for name in names}

    with unroll_with("scan") as unroll:
        expected = jax.jit(lambda: transformed(unroll))()
    with unroll_with("xla", in_shards(2)) as unroll:
        assert_close(jax.jit(lambda: transformed(unroll))(), expected, "float64")
    assert set(shards_seen) == {2}


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_in_their_sequence(poison, shards_seen):
    """The loops' counters are made to depend on what they compute."""
    problem = Problem.sample(GRU_AFTER, SHAPE)
    cell, xs, state = problem.inputs("float32")
    poisoned = xs.at[2, 0].set(poison)
    with unroll_with("scan") as unroll:
        expected = unroll(cell, poisoned, state)[1]
    with unroll_with("xla", in_shards(2)) as unroll:
        clean = unroll(cell, xs, state)[1]
        ys = unroll(cell, poisoned, state)[1]
    np.testing.assert_allclose(ys, expected, rtol=1e-5)
    np.testing.assert_array_equal(ys[:, 1:], clean[:, 1:])
    assert set(shards_seen) == {2}


def trace_in_shards(case=GRU_AFTER, shape=SHAPE, tuning=None, dtype="float32", **controls):
    cell, xs, state = Problem.sample(case, shape).inputs(dtype)
    with unroll_with("xla", tuning or in_shards(2)) as unroll:
        jax.eval_shape(functools.partial(unroll, **controls), cell, xs, state)


NOT_SPLIT = {
    "no batch axis": {"shape": SHAPE._replace(batch=())},
    "two batch axes": {"shape": SHAPE._replace(batch=(2, 3))},
    "one sequence": {"shape": SHAPE._replace(batch=(1,))},
    "no steps": {"shape": SHAPE._replace(time=0)},
    "bfloat16": {"dtype": "bfloat16"},
    "one core": {"tuning": in_shards(1)},
    "few rows": {"tuning": override(in_shards(2), shards={"min_rows": 3})},
    "few states": {"tuning": override(in_shards(2), shards={"threshold": 7 * 5 * 3 + 1})},
}


@pytest.mark.parametrize("options", NOT_SPLIT.values(), ids=NOT_SPLIT)
def test_when_the_batch_is_not_split(options, shards_seen):
    trace_in_shards(**options)
    assert not shards_seen
    trace_in_shards()
    assert shards_seen == [2]


def test_a_cell_that_fits_in_no_cache_is_split_for_its_gradient_alone(shards_seen):
    cell, xs, state = Problem.sample(GRU_AFTER, SHAPE).inputs("float32")
    with unroll_with("xla", override(in_shards(2), shards={"max_params": 1})) as unroll:
        unroll(cell, xs, state)
        assert not shards_seen
        jax.jit(jax.grad(lambda xs: unroll(cell, xs, state)[1].sum()))(xs)
    assert shards_seen == [2]


def test_on_several_devices_the_batch_is_one(shards_seen, monkeypatch):
    """It may be sharded over them, along the axis that would be split."""
    monkeypatch.setattr(call_spec, "count_devices", lambda device: 2)
    trace_in_shards()
    assert not shards_seen


CELLS = {
    "gru_after": "init(jax.random.key(0), 16, 64)",
    "gru_before": "init(jax.random.key(0), 16, 64, reset='before')",
    "lstm": "init_lstm(jax.random.key(0), 16, 64)",
}

PROGRAM = """
import sys
import jax, jax.numpy as jnp
import gru_jax
from gru_jax._unroll.xla import tuning
from gru_jax._unroll.xla.tuning import ProjectionTuning, ShardTuning, TimeBlockTuning, Tuning
xs = jnp.ones((512, 16, 16))
def forward(params, xs):
    return gru_jax.unroll(params, xs)[1]
def time_blocks(params, xs):
    return gru_jax.unroll(params, xs)[1]
def loss(params, xs):
    return jnp.sum(forward(params, xs) ** 2)
def gradient(params, xs):
    return jax.grad(loss, (0, 1))(params, xs)
def loss_with_starts(params, xs):
    return jnp.sum(gru_jax.unroll(params, xs, starts=xs[:, :, 0])[1] ** 2)
def gradient_with_starts(params, xs):
    return jax.grad(loss_with_starts, (0, 1))(params, xs)
shards = ShardTuning(max_shards=2)
plain = Tuning(shards=shards)
blocks = Tuning(
    shards=shards,
    projection=ProjectionTuning(max_params=0),
    time_block=TimeBlockTuning(elements=2**16),
)
params = eval("gru_jax." + sys.argv[1])
for function, chosen in (
    (forward, plain), (time_blocks, blocks), (gradient, plain), (gradient_with_starts, plain)
):
    tuning.CPU_TUNING = chosen
    jax.clear_caches()
    jax.jit(function).lower(params, xs).compile()
"""


@pytest.fixture(scope="module", params=slow_but(["gru_after"], CELLS))
def compiled(request, tmp_path_factory) -> dict[str, Path]:
    """The compiled functions of a cell."""
    dumped = tmp_path_factory.mktemp("dumped")
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_dump_to={dumped}",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    root = Path(gru_jax.__file__).parents[1]
    command = [sys.executable, "-c", PROGRAM, CELLS[request.param]]
    subprocess.run(command, env=environment, cwd=root, check=True)
    paths = {}
    for function in ("forward", "time_blocks", "gradient", "gradient_with_starts"):
        (paths[function],) = dumped.glob(f"*jit_{function}.cpu_after_optimizations.txt")
    return paths


@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        slow("forward", 1),
        slow("time_blocks", 1),
        ("gradient", 2),
        ("gradient_with_starts", 2),
    ],
)
def test_no_loop_writes_what_another_one_uses(function, pairs, compiled):
    """Otherwise XLA runs them one after another."""
    path = compiled[function]
    module = path.read_text()
    memory = path.with_name(path.stem + "-buffer-assignment.txt").read_text()
    # The loops of the forward pass, and those of the backward pass.
    found = list(pairs_of_loops(module))
    assert len(found) == pairs
    for pair in found:
        one, other = (written_by(loop, module, memory) for loop in pair)
        assert one
        assert other
        assert not overlap(one, other)


Span = tuple[int, int, int]


def computations(module: str) -> dict[str, list[str]]:
    found = re.findall(r"^(?:ENTRY )?%([\w.-]+) \(.*?\{$(.*?)^\}", module, re.M | re.S)
    return {name: text.strip().splitlines() for name, text in found}


def pairs_of_loops(module: str) -> Iterator[tuple[str, str]]:
    """Loops over shards of one size in one computation, as the text of their instructions."""
    for lines in computations(module).values():
        loops = [line for line in lines if ") while(" in line]
        carries = [line.split(" = ")[1].split(" while(")[0] for line in loops]
        for index, carry in enumerate(carries):
            yield from (
                (loops[index], loops[other]) for other in range(index) if carries[other] == carry
            )


def written_by(loop: str, module: str, memory: str) -> set[Span]:
    """The memory (allocation, first byte, end) that a loop's instructions write."""
    spans: dict[str, list[Span]] = {}
    allocation = -1
    for line in memory.splitlines():
        if begin := re.match(r"allocation (\d+): (.*)", line):
            allocation = -1 if "constant" in begin[2] else int(begin[1])
        elif value := re.match(
            r" value: <\d+ ([\w.-]+)(?:\{[\d,]*\})? @\d+> \(size=(\d+),offset=(\d+)\)", line
        ):
            size, offset = int(value[2]), int(value[3])
            if allocation >= 0:
                spans.setdefault(value[1], []).append((allocation, offset, offset + size))
    known = computations(module)

    def instructions(text: str) -> Iterator[str]:
        for called in re.findall(r"(?:body|condition|to_apply)=%([\w.-]+)", text):
            for line in known[called]:
                yield line
                yield from instructions(line)

    names = {
        line.split("%", 1)[1].split(" ", 1)[0]
        for line in instructions(loop)
        if not re.search(r" (parameter|get-tuple-element|tuple|constant|bitcast)\(", line)
    }
    return {span for name in names for span in spans.get(name, [])}


def overlap(ones: set[Span], others: set[Span]) -> bool:
    return any(
        one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
        for one in ones
        for other in others
    )
