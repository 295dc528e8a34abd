"""Times the gradients of recurrent policies: sequences with resets, and several seeds at once."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn
from flax import nnx
from jax import lax

import gru_jax
from experiments.bench.baselines import make_problem, nnx_cell
from experiments.bench.command_line import invocation
from experiments.bench.report import geometric_mean, machine
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import time_interleaved
from experiments.errors import UserError
from experiments.markdown import markdown_table, write_report
from experiments.runs.provenance import provenance
from gru_jax.interop import linen

LINEN, NNX, OURS, PLAIN = "ScannedRNN, Linen", "ScannedRNN, NNX", "gru_jax", "gru_jax, no starts"
START_PROBABILITY = 0.05
CASES = (
    (1, ProblemSize(batch=64, time=128, input=64, hidden=64)),
    (1, ProblemSize(batch=128, time=64, input=128, hidden=128)),
    (1, ProblemSize(batch=128, time=64, input=256, hidden=256)),
    (1, ProblemSize(batch=1024, time=128, input=128, hidden=128)),
    (8, ProblemSize(batch=16, time=128, input=64, hidden=64)),
    (8, ProblemSize(batch=32, time=64, input=128, hidden=128)),
)
"""Seeds, and the environments, steps and features of one."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Times gradients of a GRU over rollouts, beside the ScannedRNN that most agents have.

    An episode begins at 5 % of the steps. All run in one process, in interleaved rounds.
    """

    seconds: float = 10.0
    """Seconds of rounds per size."""
    output: Path | None = None
    """Directory of rl.json and rl.md; the default is runs/bench/TIME."""


def main(arguments: list[str]) -> int:
    """Runs the command; returns 0, the exit code.

    Raises:
        UserError: an option is invalid, or the implementations differ.
    """
    options = tyro.cli(Options, args=arguments, prog="python -m experiments bench --rl")
    if options.seconds <= 0:
        raise UserError(f"--seconds is {options.seconds}, but must be above 0.")
    result = {
        "command": invocation(["--rl", *arguments]),
        **provenance(),
        "gradient": {
            _title(seeds, size): time_gradients(seeds, size, options.seconds)
            for seeds, size in CASES
        },
    }
    output = options.output or Path("runs", "bench", time.strftime("%Y%m%d-%H%M%S"))
    write_report(output, "rl", result, to_markdown(result))
    return 0


def time_gradients(seeds: int, size: ProblemSize, seconds: float) -> dict[str, Any]:
    """Times the gradient in the parameters, by implementation.

    Raises:
        UserError: the gradients differ.
    """
    runs, gradients = {}, {}
    for name, (loss, params) in losses(seeds, size).items():
        gradient = jax.jit(jax.grad(loss) if seeds == 1 else jax.vmap(jax.grad(loss)))
        runs[name] = lambda gradient=gradient, params=params: jax.block_until_ready(
            gradient(*params)
        )
        norms = jax.tree.map(jnp.linalg.norm, runs[name]())
        gradients[name] = math.hypot(*map(float, jax.tree.leaves(norms)))
    # NNX has one bias less than the others, so its gradient has a smaller norm.
    if not np.isclose(gradients[LINEN], gradients[OURS], rtol=1e-3):
        raise UserError(f"The gradients at {_title(seeds, size)} differ: {gradients}.")
    return time_interleaved(runs, seconds=seconds)


def losses(seeds: int, size: ProblemSize) -> dict[str, tuple[Callable[..., jax.Array], Any]]:
    """By implementation a loss of one seed, and its arguments, with an axis of seeds for several.

    The first argument is the parameters.
    """
    problem = make_problem(size)
    keys = jax.random.split(jax.random.key(1), 3)
    shape = (size.time, size.batch)
    xs, weights = jnp.asarray(problem.xs), jnp.asarray(problem.weights)
    starts = jax.random.bernoulli(keys[0], START_PROBABILITY, shape)
    h0 = jnp.zeros((size.batch, size.hidden))
    cell = jax.tree.map(jnp.asarray, problem.params)
    of_linen = jax.tree.map(jnp.asarray, linen.dump(problem.params))
    graphdef, of_nnx = nnx.split(nnx_cell(problem.params))

    def linen_outputs(params: Any, xs: jax.Array) -> jax.Array:
        variables = {"params": {"GRUCell_0": params}}
        return jnp.asarray(ScannedRNN().apply(variables, h0, (xs, starts))[1])

    def nnx_outputs(params: Any, xs: jax.Array) -> jax.Array:
        def body(carry: jax.Array, x: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            inputs, reset = x
            carry = jnp.where(reset[:, None], jnp.zeros_like(carry), carry)
            return nnx.merge(graphdef, params)(carry, inputs)

        return lax.scan(body, h0, (xs, starts))[1]

    def make(outputs: Callable[..., jax.Array], params: Any) -> tuple[Any, Any]:
        arguments = (params, xs, weights)
        if seeds > 1:
            arguments = jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), arguments)
        return lambda params, xs, weights: jnp.sum(outputs(params, xs) * weights), arguments

    return {
        LINEN: make(linen_outputs, of_linen),
        NNX: make(nnx_outputs, of_nnx),
        OURS: make(lambda params, xs: gru_jax.unroll(params, xs, starts=starts)[1], cell),
        PLAIN: make(lambda params, xs: gru_jax.unroll(params, xs)[1], cell),
    }


class ScannedRNN(nn.Module):
    """Linen's GRU in a scan, reset where a flag is set, as most recurrent agents in JAX have it."""

    @nn.compact
    def __call__(self, carry: jax.Array, x: tuple[jax.Array, jax.Array]) -> Any:
        def body(cell: nn.Module, carry: jax.Array, x: tuple[jax.Array, jax.Array]) -> Any:
            inputs, reset = x
            return cell(jnp.where(reset[:, None], jnp.zeros_like(carry), carry), inputs)

        scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False})
        return scan(nn.GRUCell(carry.shape[-1], name="GRUCell_0"), carry, x)


def to_markdown(result: dict[str, Any]) -> str:
    """The table, with device, revision and command."""
    names = (LINEN, NNX, OURS, PLAIN)
    rows, ratios = [], []
    for title, times in result["gradient"].items():
        ratio = min(times[name]["median"] for name in (LINEN, NNX)) / times[OURS]["median"]
        ratios.append(ratio)
        cost = times[OURS]["median"] / times[PLAIN]["median"]
        medians = [f"{times[name]['median']:.3g}" for name in names]
        rows.append([title, *medians, f"{ratio:.2f}", f"{cost:.2f}"])
    header = ["Gradient in the parameters, ms", *names, "faster ScannedRNN / ours", "starts cost"]
    return (
        f"{machine(result)}, revision {result['git_revision'][:10]}, by `{result['command']}`. "
        "Sizes are environments, steps, input, hidden; medians of interleaved bursts, float32. An "
        f"episode begins at {START_PROBABILITY:.0%} of the steps.\n\n"
        f"{markdown_table(header, rows)}\n\n"
        f"Geometric mean of faster ScannedRNN / ours: {geometric_mean(ratios):.2f}.\n"
    )


def _title(seeds: int, size: ProblemSize) -> str:
    return f"{seeds} seeds of {size}" if seeds > 1 else str(size)
