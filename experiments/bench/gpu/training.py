"""Whole training runs on a GPU: to which metrics, how fast, and how busy the device is."""

import contextlib
import gzip
import json
import signal
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import write_atomically, write_json
from experiments.markdown import markdown_table
from experiments.runs.provenance import provenance

OURS, FLAX = "gru_jax", "flax.nnx.RNN"
RUNS = (("shakespeare", OURS), ("shakespeare", FLAX), ("jsb", OURS), ("jsb", FLAX))
RUNS += (("memory-chain", OURS),)
"""Configs by name, with the layers of the network. The last one is of the size of a policy."""
TRACED = 50
"""Steps of a trace, after as many untraced ones."""


def time_trainings(
    output: Path, limit: float, command: str, runs: Iterable[tuple[str, str]] = RUNS
) -> str:
    """Trains configs one after another within about ``limit`` seconds; returns the report.

    training.json and training.md are written after each. What fails, for want of data or of a
    package, is named.
    """
    deadline = time.monotonic() + limit
    result: dict[str, Any] = {"command": command, **provenance(), "rows": []}
    for name, layers in runs:
        row: dict[str, Any] = {"config": name, "layers": layers}
        try:
            if time.monotonic() > deadline:
                raise UserError("out of time")
            row |= _train(name, layers, deadline)
        except (UserError, ModuleNotFoundError) as error:
            row["skipped"] = str(error).splitlines()[0]
        result["rows"].append(row)
        write_json(output / "training.json", result)
        write_atomically(output / "training.md", to_markdown(result))
    return to_markdown(result)


def _train(name: str, layers: str, deadline: float) -> dict[str, Any]:
    """Trains a config with :func:`gru_jax.training.fit`, as the command train does."""
    # These need the extra `experiments`.
    from experiments.build import build_task
    from experiments.datasets.registry import default_data_dir
    from experiments.models.flax_layers import use_flax_layers
    from experiments.runs.config_loading import find_config, load_config
    from experiments.runs.expected import expected_metrics
    from experiments.runs.run import make_optimizer, make_train_step
    from gru_jax import training

    config = load_config(find_config(name))
    expected = expected_metrics(config) or {}
    with use_flax_layers() if layers == FLAX else contextlib.nullcontext():
        task = build_task(config, default_data_dir())
        optimizer = make_optimizer(config, task)
        state = training.TrainState.create(task.params, optimizer, task.carry)
        last = min(2 * TRACED, config.training.steps)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            profile = training.ProfileOptions(folder, last // 2 + 1, last)
            found = training.fit(
                state,
                make_train_step(task, optimizer, config.seed),
                task.batch_at,
                steps=config.training.steps,
                evaluate=lambda params: task.evaluate(params, "validation"),
                monitor=task.monitor,
                mode=task.mode,
                eval_every=config.training.eval_every,
                log_every=config.training.log_every,
                progress=False,
                stop=lambda: signal.SIGTERM if time.monotonic() > deadline else None,
                profile=profile,
            )
            seconds = time.monotonic() - begun
            busy = busy_share(Path(folder))
    rate = found.steps_per_second
    return {
        "steps": int(found.state.step),
        "of_steps": config.training.steps,
        "seconds": seconds,
        "steps_per_second": rate,
        "device_busy": busy,
        "test": None if found.best_params is None else task.evaluate(found.best_params, "test"),
        "expected": {metric: of_seeds["mean"] for metric, of_seeds in expected.items()},
    }


def busy_share(folder: Path) -> float | None:
    """Returns the share of a trace in which the GPU ran a kernel or a copy, or None.

    Args:
        folder: the directory of a trace by :mod:`jax.profiler`. The share is of the time from the
            GPU's first event to its last one. A trace of a CPU has no GPU.
    """
    intervals = []
    for path in folder.glob("**/*.trace.json.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        names = {
            (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
            for event in events
            if event.get("ph") == "M" and "name" in event.get("args", {})
        }
        intervals += [
            (event["ts"], event["ts"] + event["dur"])
            for event in events
            if event.get("ph") == "X"
            and names.get(("process_name", event["pid"], None), "").startswith("/device:GPU")
            # Of modules and steps, the trace has lines besides, which include the gaps.
            and names.get(("thread_name", event["pid"], event["tid"]), "").startswith("Stream")
        ]
    if not intervals:
        return None
    intervals.sort()
    begun = end = intervals[0][0]
    busy = 0.0
    for first, last in intervals:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return busy / (end - begun)


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table, with device, revision and command."""
    rows = []
    for row in result["rows"]:
        if "skipped" in row:
            rows.append([row["config"], row["layers"], f"not run: {row['skipped']}", *[""] * 5])
            continue
        metrics = row["test"] or {}
        rate, busy = row["steps_per_second"], row["device_busy"]
        rows.append(
            [
                row["config"],
                row["layers"],
                f"{row['steps']:,} of {row['of_steps']:,}",
                f"{row['seconds']:.1f}",
                "" if rate is None else f"{rate:.0f}",
                "" if busy is None else f"{busy:.0%}",
                ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items()),
                ", ".join(f"{metric} {value:.4g}" for metric, value in row["expected"].items()),
            ]
        )
    header = ["config", "layers", "steps", "seconds", "steps per second", "device busy"]
    header += ["test", "published for the CPU"]
    return (
        f"On {result['device']['kind']}, jax {result['versions']['jax']}, revision "
        f"{result['git_revision'][:10]}, by `{result['command']}`. Training with seed 0, from the "
        "compilation to the last evaluation. A run that is cut off has fewer steps, and its test "
        "metrics are not those of a whole one. Device busy: the share of "
        f"{TRACED} traced steps in which the device ran something.\n\n"
        f"{markdown_table(header, rows)}\n"
    )
