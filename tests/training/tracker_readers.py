"""Readers of what W&B and MLflow have stored offline."""

import json
import struct
from dataclasses import dataclass, field

BLOCK = 32 * 1024


@dataclass
class WandbRecords:
    """What W&B would send of all segments of a run.

    Attributes:
        rows: (step, metrics) in their order.
        ids: ids of the runs.
    """

    rows: list = field(default_factory=list)
    ids: set = field(default_factory=set)
    config: dict = field(default_factory=dict)
    tags: set = field(default_factory=set)
    summary: dict = field(default_factory=dict)
    artifacts: list = field(default_factory=list)
    exit_codes: list = field(default_factory=list)


def wandb_records(directory):
    """The records of a :class:`WandbWriter` in its directory, in W&B's offline mode."""
    from wandb.proto import wandb_internal_pb2

    found = WandbRecords()
    for path in sorted(directory.glob("wandb/offline-run-*/run-*.wandb")):
        for data in _leveldb_log(path.read_bytes()[7:]):
            record = wandb_internal_pb2.Record.FromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found.ids.add(record.run.run_id)
                found.tags |= set(record.run.tags)
                for item in record.run.config.update:
                    found.config[item.key] = json.loads(item.value_json)
            elif kind == "history":
                values = _values(record.history.item)
                shown = {name: value for name, value in values.items() if name[0] != "_"}
                found.rows.append((values["_step"], shown))
            elif kind == "summary":
                found.summary |= _values(record.summary.update)
            elif kind == "request" and record.request.HasField("log_artifact"):
                found.artifacts.append(record.request.log_artifact.artifact.name)
            elif kind == "artifact":
                found.artifacts.append(record.artifact.name)
            elif kind == "exit":
                found.exit_codes.append(record.exit.exit_code)
    return found


def _values(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _leveldb_log(content):
    """The records of a file in LevelDB's log format, whose first block is 7 bytes shorter."""
    place, parts = 7, []
    while place + 7 <= len(content) + 7:
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place - 7)
        parts.append(content[place : place + size])
        place += 7 + size
        if kind in (1, 4):
            yield b"".join(parts)
            parts = []


def mlflow_runs(uri):
    """MLflow's client, and the runs of all experiments at a URI."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return client, client.search_runs(ids)


def mlflow_rows(uri):
    """(step, metric, value) of the only run at a URI, in the order in which they were written."""
    client, (run,) = mlflow_runs(uri)
    return [
        (metric.step, name, metric.value)
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
