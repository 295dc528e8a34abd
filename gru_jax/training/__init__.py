"""Training of any parameter pytree with Optax: state, step, loop, checkpoints, metrics."""

from gru_jax.training.batches import Batches as Batches
from gru_jax.training.checkpoint import Checkpoints as Checkpoints
from gru_jax.training.errors import CheckpointError as CheckpointError
from gru_jax.training.errors import CheckpointMismatchError as CheckpointMismatchError
from gru_jax.training.errors import MetricsError as MetricsError
from gru_jax.training.errors import NonFiniteLossError as NonFiniteLossError
from gru_jax.training.errors import TrainingError as TrainingError
from gru_jax.training.loop import FitResult as FitResult
from gru_jax.training.loop import fit as fit
from gru_jax.training.metrics import Log as Log
from gru_jax.training.metrics import MetricsLog as MetricsLog
from gru_jax.training.metrics import evaluate_mean as evaluate_mean
from gru_jax.training.metrics import read_metrics as read_metrics
from gru_jax.training.optimizer import make_optimizer as make_optimizer
from gru_jax.training.optimizer import make_schedule as make_schedule
from gru_jax.training.state import TrainState as TrainState
from gru_jax.training.step import make_train_step as make_train_step
from gru_jax.training.step import make_train_steps as make_train_steps
from gru_jax.training.tensorboard import TensorBoardLog as TensorBoardLog
