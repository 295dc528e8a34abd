"""Reads a checkpoint from an archive of its directory, for the campaign with bad files."""

import hashlib
import json
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.interop.bad_files.archives import rezip, unzip
from experiments.interop.bad_files.constructed import hostile_json
from experiments.interop.bad_files.fuzz import corrupt_entries
from gru_jax import training
from gru_jax.interop.files import FileError
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.errors import CheckpointError
from gru_jax.training.progress import Progress

CHECKPOINT = "checkpoints/1/"
DIGESTS = CHECKPOINT + "digests.json"
HIDDEN = "hidden"


def load(path: Path) -> training.TrainState:
    """The state in a file of :func:`save`; FileError if it cannot be restored."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        hidden = int(Path(folder, HIDDEN).read_bytes())
        try:
            options = training.CheckpointOptions(Path(folder, "checkpoints"))
            with CheckpointStore(options, read_only=True) as store:
                restored = store.restore(1, _abstract_state(hidden))
        except CheckpointError as error:
            raise FileError(f"{path}: {error}") from error
    if restored is None:
        raise FileError(f"{path}: it holds no checkpoint")
    return restored[0]


def save(hidden: int) -> bytes:
    """An archive with the checkpoint of a GRU with its optimizer, and its hidden size."""
    with tempfile.TemporaryDirectory() as folder:
        with CheckpointStore(training.CheckpointOptions(Path(folder, "checkpoints"))) as store:
            store.save(_state(hidden), Progress(step=1))
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        entries = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return rezip(entries | {HIDDEN: str(hidden).encode()})


def corrupted(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Archives with one corrupted file, of which every second has digests to match."""
    archives = corrupt_entries(rezip(_without_size(good)), count, seed)
    for index, archive in enumerate(archives):
        entries = unzip(archive)
        yield _with_size(good, _sign(entries) if index % 2 else entries)


def adversarial(good: bytes) -> dict[str, bytes]:
    """Archives that must be rejected, by what is wrong with them; all have digests to match."""
    entries = _without_size(good)
    record = CHECKPOINT + "record/data.json"
    description = json.loads(entries[record])
    larger = unzip(save(40))
    arrays = {name: each for name, each in larger.items() if "/arrays/" in name}
    own = {name: each for name, each in entries.items() if "/arrays/" not in name}
    texts = {
        "a record that is nested deeply": b"[" * 1_000_000,
        "a record larger than the limit": json.dumps(description | {"x": "x" * 2**22}).encode(),
        "a record that is null": b"null",
        "a record without a description": b'{"progress": {}}',
        "a record of another model": entries[record].replace(b"(3, 12)", b"(3, 15)"),
        "a record with unknown progress": json.dumps(description | {"progress": {"x": 1}}).encode(),
    }
    made = {fault: _sign(entries | {record: text}) for fault, text in texts.items()}
    made["arrays of a larger model"] = _sign(own | arrays)
    made["digests that are nested deeply"] = entries | {DIGESTS: b"[" * 1_000_000}
    made["a file without a digest"] = entries | {CHECKPOINT + "arrays/more": b"1"}
    return {fault: _with_size(good, each) for fault, each in made.items()}


def constructed(good: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Archives with adversarial JSON in one of the files, and digests to match."""
    rng = random.Random(seed)
    entries = _without_size(good)
    names = ["_CHECKPOINT_METADATA", "digests.json", "record/data.json", "arrays/_METADATA"]
    names = [CHECKPOINT + name for name in names]
    for _ in range(count):
        name = rng.choice(names)
        changed = entries | {name: hostile_json(json.loads(entries[name]), rng)}
        yield _with_size(good, changed if name == DIGESTS else _sign(changed))


def _without_size(good: bytes) -> dict[str, bytes]:
    return {name: content for name, content in unzip(good).items() if name != HIDDEN}


def _with_size(good: bytes, entries: dict[str, bytes]) -> bytes:
    return rezip(entries | {HIDDEN: unzip(good)[HIDDEN]})


def _sign(entries: dict[str, bytes]) -> dict[str, bytes]:
    digests = {
        name.removeprefix(CHECKPOINT): hashlib.sha256(content).hexdigest()
        for name, content in entries.items()
        if name.startswith((CHECKPOINT + "arrays/", CHECKPOINT + "record/"))
    }
    return entries | {DIGESTS: json.dumps(digests).encode()}


def _abstract_state(hidden: int) -> Any:
    """The shapes of a GRU's state with its optimizer, which take no memory."""

    def create() -> training.TrainState:
        params = gru_jax.init(jax.random.key(0), 3, hidden)
        return training.TrainState.create(params, training.make_optimizer())

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(create),
    )


def _state(hidden: int) -> training.TrainState:
    """Random numbers, which do not compress."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype),
        _abstract_state(hidden),
    )
