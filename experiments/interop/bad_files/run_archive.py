"""Reads the records of a run from an archive of its directory, for the campaign with bad files."""

import json
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import yaml_files
from experiments.errors import UserError
from experiments.interop.bad_files.archives import rezip, unzip
from experiments.interop.bad_files.constructed import hostile_json
from experiments.runs.config_loading import read_yaml
from experiments.runs.directory import RunDirectory
from experiments.runs.records import read_meta, read_summary
from experiments.tasks.configs import AddingConfig
from gru_jax.interop.files import FileError
from gru_jax.training.errors import MetricsError
from gru_jax.training.metrics import read_metrics


def load(path: Path) -> list[Any]:
    """The config, the metadata, the summary and the metrics; FileError if they cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        try:
            return [
                read_yaml(run.config),
                read_meta(run),
                read_summary(run),
                read_metrics(run.metrics),
            ]
        except (UserError, MetricsError) as error:
            raise FileError(f"{path}: {error}") from error


def save(rows: int) -> bytes:
    """An archive of a run with that many rows of metrics."""
    config = AddingConfig().model_dump()
    summary = {"task": "adding", "seed": 0, "model": "gru", "parameters": 9, "status": "finished"}
    summary |= {"steps": 9, "best_step": 9, "test": {"mse": 0.1}, "baselines": {"mean": {"mse": 1}}}
    meta = {"command": "train", "git_revision": "0", "versions": {"jax": "0"}, "device": {"n": 1}}
    metrics = {"split": "train", "loss": 0.6931471805599453, "grad_norm": 0.0123456789012345}
    metrics |= {"seconds": 12.345678901234567, "steps_per_second": 321.0123456789}
    lines = (json.dumps({"step": step, **metrics}) for step in range(rows))
    return rezip(
        {
            "config.yaml": yaml_files.dump(config).encode(),
            "meta.json": json.dumps(meta).encode(),
            "summary.json": json.dumps(summary).encode(),
            "metrics.jsonl": "\n".join([*lines, ""]).encode(),
        }
    )


def adversarial(good: bytes) -> dict[str, bytes]:
    """Archives that must be rejected, by what is wrong with them."""
    entries = unzip(good)
    texts = {
        "that is nested deeply": b"[" * 1_000_000,
        "larger than the limit": b'{"a": "' + b"x" * 2**22 + b'"}',
        "that is null": b"null",
        "that is empty": b"",
    }
    made = {
        f"{name} {fault}": {name: text}
        for name in ("summary.json", "meta.json")
        for fault, text in texts.items()
    }
    metrics = entries["metrics.jsonl"]
    made["a line of metrics that is nested deeply"] = {
        "metrics.jsonl": b"[" * 1_000_000 + b"\n" + metrics
    }
    made["a line of metrics without end"] = {"metrics.jsonl": b"x" * 2**22 + b"\n" + metrics}
    made["millions of short rows"] = {"metrics.jsonl": b'{"step":1}\n' * 4_000_000}
    aliases = [b"a0: &a0 [1]"] + [
        b"a%d: &a%d [*a%d, *a%d]" % (n, n, n - 1, n - 1) for n in range(1, 40)
    ]
    made["a config of nested aliases"] = {"config.yaml": b"\n".join(aliases)}
    made["a config that is nested deeply"] = {"config.yaml": b"a: " + b"[" * 100_000}
    made["a config larger than the limit"] = {"config.yaml": b"a: " + b"x" * 2**22}
    return {fault: rezip(entries | changed) for fault, changed in made.items()}


def constructed(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Archives with adversarial JSON in one of the files, or in a line of the metrics."""
    rng = random.Random(seed)
    entries = unzip(good)
    *rows, _ = entries["metrics.jsonl"].split(b"\n")
    for _ in range(count):
        name = rng.choice(("summary.json", "meta.json", "metrics.jsonl"))
        if name == "metrics.jsonl":
            line = rng.randrange(len(rows))
            changed = [
                *rows[:line],
                hostile_json(json.loads(rows[line]), rng),
                *rows[line + 1 :],
                b"",
            ]
            yield rezip(entries | {name: b"\n".join(changed)})
        else:
            yield rezip(entries | {name: hostile_json(json.loads(entries[name]), rng)})
