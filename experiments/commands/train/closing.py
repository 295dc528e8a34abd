"""The last words of `train`: what was reached and expected, how long it took, and what is next."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.config import ExperimentConfig
from experiments.program import typed
from experiments.runs import bucket
from experiments.runs.config_loading import CONFIG_DIR
from experiments.runs.directory import RunDirectory
from experiments.runs.expected import expected_metrics
from experiments.runs.records import read_meta, read_summary
from experiments.status import duration
from experiments.tables import number
from experiments.task import HIGHER_IS_BETTER


def closing_words(run: RunDirectory, path: Path, config: ExperimentConfig) -> str:
    """Returns the last words of a finished run.

    Args:
        run: the run.
        path: the config file that it was started with.
        config: its config.
    """
    test = read_summary(run)["test"]
    lines = ["Reached:  " + ", ".join(f"{_words(name)} {number(test[name])}" for name in test)]
    verdict = against_baselines(read_summary(run)) if run.data.exists() else None
    if verdict is not None:
        lines.append(f"Beware:   {verdict}")
    expected = expected_metrics(config)
    if expected is not None:
        shown = [
            f"{_words(name)} {_spread(of_name['mean'], of_name['deviation'])}"
            for name, of_name in expected.items()
        ]
        seeds = max(len(of_name["values"]) for of_name in expected.values())
        lines.append(f"Expected: {', '.join(shown)} ({seeds} seeds)")
    seconds = read_meta(run).get("wall_seconds")
    if seconds is not None:
        lines.append(f"Took:     {duration(seconds)}")
    where, kind = str(bucket.original(run.path)), "safetensors"
    if run.data.exists():
        kind = "onnx" if config.model.cell == "gru" else "stablehlo"
    following = [
        ["report", str(bucket.original(run.path.parent))],
        ["export", where, "--to", kind],
        ["compare", path.stem if path.parent == CONFIG_DIR else str(path)],
    ]
    if bucket.is_written(run.path):
        following[0] += ["--output", "report.html"]
        following[1] += ["--output", "export"]
    if run.data.exists():
        following[1:1] = [["predict", where, "NEW_DATA", "-o", "predictions.csv"]]
    lines += ["", "Next:", *(f"  {typed()} {shlex.join(command)}" for command in following)]
    return "\n".join(lines)


def against_baselines(summary: Mapping[str, Any]) -> str | None:
    """Returns a sentence if the model is no better than a baseline, or None.

    They are compared by the first metric, and by the next one where it is the same.

    Args:
        summary: content of `summary.json`.
    """
    test = summary["test"]
    baselines = {
        name: metrics
        for name, metrics in summary["baselines"].items()
        if metrics.keys() >= test.keys()
    }
    if not baselines:
        return None

    def errors(metrics: Mapping[str, float]) -> list[float]:
        return [-metrics[name] if name in HIGHER_IS_BETTER else metrics[name] for name in test]

    best = min(baselines, key=lambda name: errors(baselines[name]))
    if errors(test) < errors(baselines[best]):
        return None
    metric = next((name for name in test if test[name] != baselines[best][name]), next(iter(test)))
    return (
        f"the model is no better than a baseline, {best}: {_words(metric)} {number(test[metric])} "
        f"against {number(baselines[best][metric])}. Train longer, change the model, or use the "
        "baseline."
    )


def _spread(mean: float, deviation: float) -> str:
    """Returns a mean and a deviation, with as many decimals as the mean has."""
    if abs(mean) >= 0.01:
        return f"{number(mean)} ± {deviation:.4f}"
    return f"{number(mean)} ± {number(deviation)}"


def _words(name: str) -> str:
    return name.replace("_", " ")
