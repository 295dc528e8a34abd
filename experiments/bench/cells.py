"""The cost of GRU, LSTM and plain RNN at one width, and at one number of parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure

import gru_jax
from experiments.bench.shapes import ProblemSize
from experiments.bench.timing import time_interleaved
from experiments.plots import save
from experiments.runs.run import num_parameters

INITS: dict[str, Callable[..., Any]] = {
    "GRU": gru_jax.init,
    "LSTM": gru_jax.init_lstm,
    "RNN": gru_jax.init_rnn,
}
Rows = dict[str, dict[str, Any]]


def time_cells(size: ProblemSize, seconds: float) -> dict[str, Rows]:
    """Times forward pass and gradient of the three cells.

    Returns:
        By "equal width" and "equal parameters", then by cell: "units", "parameters", and the
        times of "forward" and "gradient" as :func:`time_interleaved` returns them.
    """
    widths = {
        "equal width": dict.fromkeys(INITS, size.hidden),
        "equal parameters": {name: _matching_width(name, size) for name in INITS},
    }
    return {kind: _time(of_kind, size, seconds / 2) for kind, of_kind in widths.items()}


def _matching_width(name: str, size: ProblemSize) -> int:
    """The width at which a cell's number of parameters is closest to the GRU's."""
    expected = _count("GRU", size.input, size.hidden)
    return min(
        range(1, 4 * size.hidden), key=lambda width: abs(_count(name, size.input, width) - expected)
    )


def _count(name: str, inputs: int, width: int) -> int:
    return num_parameters(jax.eval_shape(lambda: INITS[name](jax.random.key(0), inputs, width)))


def _time(widths: dict[str, int], size: ProblemSize, seconds: float) -> Rows:
    xs = jax.random.normal(jax.random.key(1), (size.time, size.batch, size.input))
    run = jax.jit(lambda params, xs: gru_jax.unroll(params, xs)[1])
    differentiate = jax.jit(jax.grad(lambda params, xs: jnp.sum(run(params, xs)), (0, 1)))
    forward, gradient, found = {}, {}, {}
    for name, width in widths.items():
        params = INITS[name](jax.random.key(0), size.input, width)
        forward[name] = _bind(run, params, xs)
        gradient[name] = _bind(differentiate, params, xs)
        found[name] = {"units": width, "parameters": num_parameters(params)}
    times = {
        "forward": time_interleaved(forward, seconds=seconds / 2),
        "gradient": time_interleaved(gradient, seconds=seconds / 2),
    }
    return {
        name: {**row, **{kind: of_kind[name] for kind, of_kind in times.items()}}
        for name, row in found.items()
    }


def _bind(run: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(run(*arguments))


def plot(kinds: dict[str, Rows], title: str, path: Path) -> None:
    """Plots parameters and times as multiples of the LSTM's."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True)
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "parameters": lambda row: row["parameters"],
        "forward": lambda row: row["forward"]["median"],
        "gradient": lambda row: row["gradient"]["median"],
    }
    for panel, (kind, rows) in zip(panels, kinds.items(), strict=True):
        for place, (name, row) in enumerate(rows.items()):
            heights = [measure(row) / measure(rows["LSTM"]) for measure in measures.values()]
            at = [index + (place - 1) * 0.27 for index in range(len(measures))]
            panel.bar(at, heights, 0.25, label=f"{name}, {row['units']} units")
        panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
        panel.set_xticks(range(len(measures)), list(measures))
        panel.set_title(kind)
        panel.legend(
            frameon=False, fontsize="small", ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1)
        )
    panels[0].set_ylabel("multiple of the LSTM's")
    figure.suptitle(title)
    save(figure, path)
