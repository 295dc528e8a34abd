"""Writes `orbax_v0_checkpoint.zip`: a checkpoint of the time when Orbax's v0 API wrote them.

Run with a checkout of that time: `PYTHONPATH=OLD_CHECKOUT python tests/golden/make_checkpoint.py`.
"""

import tempfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp

from gru_jax import training
from gru_jax.training.checkpoint import CheckpointStore
from gru_jax.training.progress import Progress
from tests.training import regression_problem as problem

PROGRESS = Progress(step=7, best_step=7, best_metrics={"loss": 0.1 + 0.2}, seconds=1.5)


def make_state() -> training.TrainState:
    """A state whose values are the same with all compilers."""
    return jax.tree.map(
        lambda leaf: jnp.arange(leaf.size).astype(leaf.dtype).reshape(leaf.shape),
        problem.make_state(hidden=2),
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        with CheckpointStore(training.CheckpointOptions(directory)) as store:
            store.save(make_state(), PROGRESS)
        archive = Path(__file__).with_name("orbax_v0_checkpoint.zip")
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(Path(directory).rglob("*")):
                if path.is_file():
                    file.write(path, path.relative_to(directory))


if __name__ == "__main__":
    main()
