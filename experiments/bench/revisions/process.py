"""A long-lived process for each revision, which loads the `gru_jax` of its own checkout."""

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
    """A process that times the `gru_jax` of a checkout; a context manager, which ends it.

    Args:
        folder: the checkout.
        deadline: when, by `time.monotonic()`, an answer is no longer waited for.

    Raises:
        UserError: if the process loads another `gru_jax` than the checkout's, or fails.
        TimeoutError: if an answer has not come by the deadline.
    """

    def __init__(self, folder: Path, deadline: float):
        self._folder, self._deadline = folder, deadline
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            # Without -P, the worker's own folder would come before the checkout.
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
                # A cache on disk would hide what compiling takes.
                "JAX_ENABLE_COMPILATION_CACHE": "false",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def check(self) -> str:
        """The process's version of JAX, after a check that its `gru_jax` is the checkout's."""
        found = self.ask("describe")
        if Path(found["gru_jax"]).parents[1] != self._folder:
            raise UserError(
                f"A process for {self._folder} imported {found['gru_jax']}, not the checkout's."
            )
        return found["jax"]

    def ask(self, request: str, *arguments: Any) -> Any:
        """Calls a method of the worker and returns what it returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps([request, *arguments]), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._failure() from None
        # There is one reply to each request, so nothing of it can lie in the buffer already.
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
