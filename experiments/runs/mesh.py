"""The mesh of a command, and training in data parallel on it."""

import jax
from jax.sharding import AxisType

from experiments.config import ExperimentConfig
from experiments.errors import UserError
from experiments.runs.mesh_options import Mesh, check_batch
from gru_jax import training


def make_mesh(sizes: Mesh) -> jax.sharding.Mesh:
    """Returns a mesh of the first devices, or of all devices of several processes.

    Raises:
        UserError: there are fewer devices, or not all of those of several processes are used.
    """
    devices, number = jax.devices(), 1
    for size in sizes.values():
        number *= size
    if number > len(devices) or (jax.process_count() > 1 and number < len(devices)):
        hint = ""
        if devices[0].platform == "cpu" and jax.process_count() == 1:
            hint = f" JAX_NUM_CPU_DEVICES={number} in the environment makes as many of a CPU."
        raise UserError(
            f"--mesh needs {number} devices, but there are {len(devices)} ({devices[0].platform})."
            f"{hint}"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        (AxisType.Auto,) * len(sizes),
        devices=devices[:number],
    )


def data_parallel(sizes: Mesh | None, config: ExperimentConfig) -> training.DataParallel | None:
    """Returns how a run is spread over devices: by its mesh, or over all of several processes.

    Returns:
        None for a run on the default device.

    Raises:
        UserError: as :func:`make_mesh`, or the devices do not divide the batch.
    """
    if sizes is None:
        if not jax.distributed.is_initialized():
            return None
        sizes = {"data": jax.device_count()}
        check_batch(config, sizes["data"], "--distributed")
    return training.DataParallel(make_mesh(sizes))
