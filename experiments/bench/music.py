"""End to end: the time of a train step of configs/jsb.yaml, with our GRU and with Flax's."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.bench.timing import Summary, time_interleaved
from experiments.models.flax_layers import use_flax_layers
from experiments.models.recurrent import Network, build_network
from experiments.optimizers import make_optimizer
from experiments.runs.config_loading import load_config
from experiments.tasks import music
from gru_jax import training

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
    build = functools.partial(
        build_network, config.model, music.KEYS, music.KEYS, readout="every step", seed=0
    )
    with use_flax_layers():
        networks = {"nnx.RNN(nnx.GRUCell)": build()}
    networks = {"gru_jax": build(), **networks}
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
