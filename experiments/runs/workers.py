"""Several processes of one command on this machine, each on a device of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import experiments
from experiments import stop
from experiments.errors import UserError

# JAX's variables that choose among the GPUs which a process sees.
VISIBLE_DEVICES = ("JAX_CUDA_VISIBLE_DEVICES", "JAX_ROCM_VISIBLE_DEVICES")
# The part of a GPU's memory that JAX reserves, for one process.
MEMORY_FRACTION = 0.75
POLL_SECONDS = 0.1
WRONG_INPUT = 2
COMMAND = (sys.executable, "-m", "experiments")
ROOT = Path(experiments.__file__).parents[1]


def run_workers(
    arguments: Sequence[str], number: int | Literal["auto"], folder: Path
) -> signal.Signals | None:
    """Runs a command in several processes, and waits for all of them.

    Their messages are in `folder`, in worker-0.log and so on. A signal is passed on to all. What a
    worker that was killed has left undone is the caller's to finish.

    Args:
        arguments: the command and its arguments.
        number: number of processes; "auto" is one for each device.
        folder: a directory, which is made unless it exists.

    Returns:
        The signal that stopped them, or None.

    Raises:
        UserError: a worker rejected its input, or the devices cannot be shared by processes.
    """
    platform, num_devices = _devices()
    if platform == "tpu":
        raise UserError("--workers needs CPUs or GPUs: one process takes all TPU chips of a host.")
    number = num_devices if number == "auto" else number
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker-{index}.log" for index in range(number)]
    print(f"{number} workers; their messages are in {folder}/worker-*.log", flush=True)
    with contextlib.ExitStack() as stack:
        workers = [
            _start(arguments, log, environment(index, number, num_devices), stack)
            for index, log in enumerate(logs)
        ]
        received = None
        while any(worker.poll() is None for worker in workers):
            rejected = [worker for worker in workers if worker.poll() == WRONG_INPUT]
            if received is None and (stop.received() or rejected):
                received = stop.received() or signal.SIGTERM
                for worker in workers:
                    worker.send_signal(received)
            time.sleep(POLL_SECONDS)
    for worker, log in zip(workers, logs, strict=True):
        if worker.returncode == WRONG_INPUT:
            messages = log.read_text(encoding="utf-8", errors="replace").strip()
            raise UserError(f"A worker ended with an error ({log}):\n{messages}")
        if worker.returncode and received is None:
            print(f"A worker ended with {worker.returncode}: see {log}", file=sys.stderr)
    return stop.received()


def environment(index: int, number: int, num_devices: int) -> dict[str, str]:
    """Returns the variables that give a worker its GPU, and its part of the memory of a shared one.

    Workers take the devices in turn. A CPU is shared as a whole.
    """
    variables = {}
    for name in VISIBLE_DEVICES:
        visible = os.environ.get(name, "all")
        ids = range(num_devices) if visible == "all" else visible.split(",")
        variables[name] = str(ids[index % num_devices])
    if number > num_devices:
        on_one_device = -(-number // num_devices)
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{MEMORY_FRACTION / on_one_device:.3f}"
    return variables


def _devices() -> tuple[str, int]:
    """Returns platform and number of the devices, seen by a process that takes none of them."""
    code = "import jax; print(jax.default_backend(), jax.local_device_count())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"JAX finds no device:\n{done.stderr.strip()}")
    platform, number = done.stdout.split()[-2:]
    return platform, int(number)


def _start(
    arguments: Sequence[str], log: Path, variables: dict[str, str], stack: contextlib.ExitStack
) -> subprocess.Popen[bytes]:
    """Starts a worker, which is killed if the stack is left while it runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(log, "wb") as output:
        worker = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, **variables, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches it once, from here.
            start_new_session=True,
        )
    stack.callback(_end, worker)
    return worker


def _end(worker: subprocess.Popen[bytes]) -> None:
    if worker.poll() is None:
        worker.kill()
        worker.wait()
