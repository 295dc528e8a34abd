"""End to end: the time of a train step of configs/jsb.yaml, with our GRU and with Flax's."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from experiments.bench.timing import Summary, time_interleaved
from experiments.models.recurrent import Network, build_network
from experiments.optimizers import make_optimizer
from experiments.runs.config_loading import load_config
from experiments.tasks import music
from gru_jax import dropout, training

CONFIG = Path(__file__).parents[2] / "configs" / "jsb.yaml"
STEPS = 10


def check(data_dir: Path) -> None:
    """Raises UserError if the data are missing."""
    config: Any = load_config(CONFIG)
    music.build(config, data_dir)


def time_training(data_dir: Path, seconds: float) -> dict[str, Summary]:
    """Times train steps with the same data, optimiser and regularisers for either GRU.

    Raises:
        UserError: if the data are missing.
    """
    config: Any = load_config(CONFIG)
    task = music.build(config, data_dir)
    size = config.model.hidden_size
    network = build_network(config.model, music.KEYS, music.KEYS, readout="every step", seed=0)
    plain = _Plain(size, config.model.dropout, rngs=nnx.Rngs(0))
    graphdef, params, rng_state = nnx.split(plain, nnx.Param, ...)
    baseline = _PlainNetwork(params, graphdef, rng_state, config.model.dropconnect)
    networks = {"gru_jax": network, "nnx.RNN(nnx.GRUCell)": baseline}
    runs = {name: _training(network, config, task.batch_at) for name, network in networks.items()}
    times = time_interleaved(runs, seconds=seconds)
    return {
        name: {key: value if key == "rounds" else value / STEPS for key, value in summary.items()}
        for name, summary in times.items()
    }


def _training(network: Network, config: Any, batch_at: Callable[[int], Any]) -> Callable[[], Any]:
    optimizer = make_optimizer(config, accumulate_by_weight=False)
    step = training.make_train_step(music.make_loss(network), optimizer, seed=config.seed)
    state = training.TrainState.create(network.params, optimizer)
    index = 0

    def run() -> Any:
        nonlocal state, index
        for _ in range(STEPS):
            state, _ = step(state, batch_at(index))
            index += 1
        return jax.block_until_ready(state)

    return run


class _Plain(nnx.Module):
    """The network of the config, built from Flax's own modules."""

    def __init__(self, hidden_size: int, dropout: float, *, rngs: nnx.Rngs):
        self.hidden_size = hidden_size
        self.recurrent = nnx.RNN(nnx.GRUCell(music.KEYS, hidden_size, rngs=rngs))
        self.dropout = nnx.Dropout(dropout)
        self.readout = nnx.Linear(hidden_size, music.KEYS, rngs=rngs)

    def __call__(
        self,
        inputs: jax.Array,
        lengths: jax.Array | None,
        key: jax.Array | None,
        *,
        carry: Any = None,
    ) -> tuple[jax.Array, Any]:
        del carry
        rngs = None if key is None else nnx.Rngs(dropout=key)
        h0 = jax.numpy.zeros((inputs.shape[0], self.hidden_size))
        hidden = self.recurrent(inputs, initial_carry=h0, seq_lengths=lengths)
        return self.readout(self.dropout(hidden, deterministic=key is None, rngs=rngs)), None


@dataclasses.dataclass(frozen=True)
class _PlainNetwork(Network):
    def drop_recurrent_weights(self, params: Any, key: jax.Array) -> Any:
        kernel = params["recurrent"]["cell"]["dense_h"]["kernel"]
        dropped = dropout.dropout(key, kernel[...], self.dropconnect)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: dropped if "dense_h" in jax.tree_util.keystr(path) else leaf, params
        )
