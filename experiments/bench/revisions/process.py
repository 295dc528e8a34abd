"""A long-lived process that imports the `gru_jax` of one checkout."""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from experiments.errors import UserError

WORKER = Path(__file__).with_name("worker.py")


class RevisionProcess:
    """Runs a worker that times the `gru_jax` of a checkout; as a context manager, it ends it.

    Args:
        folder: the checkout.
        deadline: the `time.monotonic()` until which replies are waited for.

    Raises:
        UserError: if the worker imports another `gru_jax`, or fails.
        TimeoutError: if there is no reply by the deadline.
    """

    def __init__(self, folder: Path, deadline: float):
        self._folder, self._deadline = folder, deadline
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            # Without -P, modules of the worker's folder would come before the checkout's.
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(folder),
                "JAX_PLATFORMS": "cpu",
                # A cache on disk would hide the time of compilation.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def check(self) -> None:
        """Raises UserError if the process has not imported the checkout's `gru_jax`."""
        package = self.ask("package")
        if Path(package).parents[1] != self._folder:
            raise UserError(
                f"The process for {self._folder} imported {package} instead of the checkout's "
                "gru_jax."
            )

    def ask(self, request: str, *arguments: Any) -> Any:
        """Calls a method of the worker and returns what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([request, *arguments]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        # There is one reply to each request, so the reader's buffer is empty here.
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, self._deadline - time.monotonic())):
                raise TimeoutError
        reply = self._process.stdout.readline()
        if not reply:
            raise self._failure()
        return json.loads(reply)

    def _failure(self) -> UserError:
        self._process.wait()
        self._errors.seek(0)
        return UserError(
            f"The process for {self._folder} failed:\n{self._errors.read()[-2000:].strip()}"
        )
