"""The benchmark's results as Markdown tables and as a plot, from the contents of `bench.json`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.bench.implementations import MATMUL_ONLY, OURS
from experiments.markdown import markdown_table
from experiments.plots import save

Result = Mapping[str, Any]

# Matplotlib's default colours without C7, a grey; ours are plotted in greys.
CHROMATIC = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")


def to_markdown(result: Result) -> str:
    """All tables, with device, revision and command."""
    parts = [headline(result)]
    if result["process"]:
        peak = "Peak memory of the gradient, MiB (separate processes, after compiling)"
        first = "Time to the first gradient, ms (separate processes: tracing, compiling, running)"
        parts += [
            _processes(peak, result["process"], "peak_mib"),
            _processes(first, result["process"], "first_ms"),
        ]
    if "long" in result:
        title = "A long sequence: peak memory of the gradient, MiB (separate processes)"
        parts.append(_processes(title, result["long"], "peak_mib"))
    sections = {
        "matmuls": _matmuls,
        "layers": _layers,
        "cells": _cells,
        "streaming": _streaming,
        "music": _music,
    }
    parts += [table(result) for name, table in sections.items() if name in result]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def headline(result: Result) -> str:
    """The times of gradient and forward pass, with device, revision and command."""
    parts = [
        f"{machine(result)}, revision {result['git_revision'][:10]}, by "
        f"`{result['command']}`. Sizes are batch, time, input, hidden; milliseconds, "
        "medians of interleaved bursts, float32.",
        _times("Gradient with respect to parameters and inputs, ms", result, "gradient"),
        _times("Forward, ms", result, "forward"),
    ]
    return "\n\n".join(parts) + "\n"


def machine(result: Result) -> str:
    """The device, and the versions of JAX and Python, as the beginning of a sentence."""
    device, versions = result["device"], result["versions"]
    where = device["kind"]
    if device["platform"] == "cpu":
        cpu = device.get("cpu")
        where = f"{device['cpu_cores']} CPU cores" + (f" ({cpu})" if cpu else "")
    return f"On {where}, jax {versions['jax']}, Python {versions['python']}"


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def best_baseline(times: Mapping[str, Any]) -> tuple[str, float] | None:
    """The fastest baseline and its median; None if there is no baseline."""
    baselines = {
        name: summary["median"]
        for name, summary in times.items()
        if name not in OURS and name != MATMUL_ONLY
    }
    return min(baselines.items(), key=lambda baseline: baseline[1]) if baselines else None


def ratios(result: Result, kind: str) -> dict[str, dict[str, float]]:
    """By size, the times of the best baseline and of the matmuls only, as multiples of ours."""
    found = {}
    for size, times in result[kind].items():
        if "gru_jax" not in times:
            continue
        ours, row = times["gru_jax"]["median"], {}
        best = best_baseline(times)
        if best is not None:
            row["best baseline"] = best[1] / ours
        if MATMUL_ONLY in times:
            row[MATMUL_ONLY] = times[MATMUL_ONLY]["median"] / ours
        found[size] = row
    return found


def _times(title: str, result: Result, kind: str) -> str:
    sizes = list(result[kind])
    names = [name for name in result["implementations"] if name in result[kind][sizes[0]]]
    rows = [
        [name, *(format_summary(result[kind][size][name]) for size in sizes), ""] for name in names
    ]
    by_size = ratios(result, kind)
    for key in ("best baseline", MATMUL_ONLY):
        values = [by_size.get(size, {}).get(key) for size in sizes]
        known = [value for value in values if value is not None]
        if known:
            cells = [f"{value:.2f}" if value else "" for value in values]
            rows.append([f"**{key} / gru_jax**", *cells, f"{geometric_mean(known):.2f}"])
    return markdown_table([title, *sizes, "geometric mean"], rows)


def _processes(title: str, by_size: Result, key: str) -> str:
    sizes = list(by_size)
    rows = [
        [name, *(_number(by_size[size][name][key]) for size in sizes)] for name in by_size[sizes[0]]
    ]
    return markdown_table([title, *sizes], rows)


def _matmuls(result: Result) -> str:
    sizes = list(result["matmuls"])
    rows = [
        [name, *(f"{result['matmuls'][size][name]['gflops']:.0f}" for size in sizes)]
        for name in result["matmuls"][sizes[0]]
    ]
    title = "Each matmul by itself, GFLOP/s"
    return markdown_table([title, *sizes], rows)


def _layers(result: Result) -> str:
    ((size, by_kind),) = result["layers"].items()
    single = next(iter(by_kind.values()))["gru_jax"]["median"]
    rows = [
        [
            kind,
            format_summary(times["gru_jax"]),
            format_summary(times["nnx"]),
            f"{times['nnx']['median'] / times['gru_jax']['median']:.2f}",
            f"{times['gru_jax']['median'] / single:.2f}",
        ]
        for kind, times in by_kind.items()
    ]
    title = f"Gradient of layers at {size}, ms"
    return markdown_table([title, "gru_jax", "nnx", "nnx / gru_jax", "gru_jax / 1 layer"], rows)


def _cells(result: Result) -> str:
    ((size, kinds),) = result["cells"].items()
    rows = [
        [
            f"{kind}: {name}",
            str(row["units"]),
            f"{row['parameters']:,}",
            f"{row['parameters'] / of_kind['LSTM']['parameters']:.2f}",
            format_summary(row["forward"]),
            f"{row['forward']['median'] / of_kind['LSTM']['forward']['median']:.2f}",
            format_summary(row["gradient"]),
            f"{row['gradient']['median'] / of_kind['LSTM']['gradient']['median']:.2f}",
        ]
        for kind, of_kind in kinds.items()
        for name, row in of_kind.items()
    ]
    ratio = "/ LSTM's"
    header = [f"Cells at {size}", "units", "parameters", ratio, "forward, ms", ratio]
    return markdown_table([*header, "gradient, ms", ratio], rows)


def _streaming(result: Result) -> str:
    kinds = list(result["streaming"])
    rows = [
        [name, *(f"{result['streaming'][kind][name]['median'] * 1e3:.1f}" for kind in kinds)]
        for name in result["streaming"][kinds[0]]
    ]
    return markdown_table(["A jitted step with donated state, microseconds", *kinds], rows)


def _music(result: Result) -> str:
    times = result["music"]
    baseline = times["nnx.RNN(nnx.GRUCell)"]["median"]
    rows = [
        [name, format_summary(summary), f"{baseline / summary['median']:.2f}"]
        for name, summary in times.items()
    ]
    header = ["Training on configs/jsb.yaml", "ms per step", "speed relative to nnx"]
    return markdown_table(header, rows)


def format_summary(summary: Mapping[str, float]) -> str:
    """The median, and the quartiles in parentheses."""
    return f"{_number(summary['median'])} ({_number(summary['low'])} to {_number(summary['high'])})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def plot(result: Result, path: Path) -> None:
    """Plots each implementation's time as a multiple of the matmuls only, or of ours."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    greys = dict(zip(OURS, ("black", "dimgray", "darkgray", "lightgray"), strict=True))
    others = [name for name in result["implementations"] if name not in greys]
    colors = greys | dict(zip(others, CHROMATIC, strict=False))
    for panel, kind, title in zip(
        panels, ("gradient", "forward"), ("Gradient", "Forward"), strict=True
    ):
        sizes = list(result[kind])
        names = [name for name in result["implementations"] if name in result[kind][sizes[0]]]
        unit = MATMUL_ONLY if MATMUL_ONLY in names else names[0]
        plotted = [name for name in names if name != unit]
        width = 0.85 / max(1, len(plotted))
        for place, name in enumerate(plotted):
            units = [result[kind][size][unit]["median"] for size in sizes]
            summaries = [result[kind][size][name] for size in sizes]
            heights = [s["median"] / u for s, u in zip(summaries, units, strict=True)]
            low = [(s["median"] - s["low"]) / u for s, u in zip(summaries, units, strict=True)]
            high = [(s["high"] - s["median"]) / u for s, u in zip(summaries, units, strict=True)]
            panel.bar(
                [index + (place - len(plotted) / 2 + 0.5) * width for index in range(len(sizes))],
                heights,
                width,
                yerr=(low, high),
                error_kw={"linewidth": 0.8},
                color=colors[name],
                label=name,
            )
        panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
        panel.set_yscale("log")
        panel.set_ylabel(f"time / {unit}")
        panel.set_title(f"{title}: medians and quartiles, lower is better")
        panel.set_xticks(range(len(sizes)), sizes)
    panels[1].legend(frameon=False, ncols=4, fontsize="small")
    panels[-1].set_xlabel("batch, time, input, hidden")
    save(figure, path)
