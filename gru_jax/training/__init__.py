"""Training of any parameter pytree with Optax: state, step, loop, checkpoints, metrics."""

from gru_jax.training.accumulation import weighted_accumulation as weighted_accumulation
from gru_jax.training.checkpoint import CheckpointOptions as CheckpointOptions
from gru_jax.training.checkpoint import CheckpointStore as CheckpointStore
from gru_jax.training.data_parallel import DataParallel as DataParallel
from gru_jax.training.errors import CheckpointError as CheckpointError
from gru_jax.training.errors import CheckpointMismatchError as CheckpointMismatchError
from gru_jax.training.errors import MetricsError as MetricsError
from gru_jax.training.errors import NonFiniteLossError as NonFiniteLossError
from gru_jax.training.errors import TrainingError as TrainingError
from gru_jax.training.loop import FitResult as FitResult
from gru_jax.training.loop import fit as fit
from gru_jax.training.metrics import JsonlWriter as JsonlWriter
from gru_jax.training.metrics import MetricsWriter as MetricsWriter
from gru_jax.training.metrics import RowsWriter as RowsWriter
from gru_jax.training.metrics import mean_metrics as mean_metrics
from gru_jax.training.metrics import read_metrics as read_metrics
from gru_jax.training.mlflow import MlflowWriter as MlflowWriter
from gru_jax.training.optimizer import make_optimizer as make_optimizer
from gru_jax.training.optimizer import make_schedule as make_schedule
from gru_jax.training.optimizer import matrices_only as matrices_only
from gru_jax.training.profile import ProfileOptions as ProfileOptions
from gru_jax.training.shuffled_indices import ShuffledIndices as ShuffledIndices
from gru_jax.training.state import TrainState as TrainState
from gru_jax.training.step import make_train_step as make_train_step
from gru_jax.training.step import make_vmapped_train_step as make_vmapped_train_step
from gru_jax.training.step import vmap_update as vmap_update
from gru_jax.training.tensorboard import TensorBoardWriter as TensorBoardWriter
from gru_jax.training.trackers import Tracker as Tracker
from gru_jax.training.trackers import TrackerWriter as TrackerWriter
from gru_jax.training.wandb import WandbWriter as WandbWriter

_RENAMED = {
    "Batches": "ShuffledIndices",
    "Checkpoints": "CheckpointOptions",
    "Log": "MetricsWriter",
    "MetricsLog": "JsonlWriter",
    "TensorBoardLog": "TensorBoardWriter",
    "evaluate_mean": "mean_metrics",
    "make_train_steps": "make_vmapped_train_step",
}


def __getattr__(name: str) -> object:
    message = f"module {__name__!r} has no attribute {name!r}"
    if name in _RENAMED:
        message += f"; it is called {_RENAMED[name]!r} now"
    raise AttributeError(message)
