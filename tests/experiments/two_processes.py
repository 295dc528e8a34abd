"""A command as two processes that train together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 600


def start(*arguments):
    """Starts a command on two CPU devices."""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments", *map(str, arguments)],
        env={**env, "JAX_NUM_CPU_DEVICES": "2", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(config, *options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", *options]
    return [
        start("train", config, "--distributed", *common, "--process-id", number)
        for number in range(2)
    ]


def ends(processes):
    return [(*process.communicate(timeout=TIMEOUT), process.returncode) for process in processes]
