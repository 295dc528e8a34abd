"""A process that times one revision's `gru_jax`: it reads requests and writes replies, JSON lines.

It runs as a file, with `PYTHONPATH` set to the checkout to measure. Only that checkout's public
API is used, and nothing of `experiments`, whose layout differs between revisions.
"""

import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gru_jax

START_PROBABILITY = 0.05


class Case(NamedTuple):
    """A call to time.

    Attributes:
        unroll: `(params, xs, controls) -> ys`.
        params: parameters.
        xs: inputs (T, B, D).
        controls: keyword arguments of `gru_jax.unroll` that are arrays.
        weights: like the outputs; the loss is `sum(weights * outputs)`.
    """

    unroll: Callable[..., jax.Array]
    params: Any
    xs: jax.Array
    controls: dict[str, jax.Array]
    weights: jax.Array


def make_case(name: str, batch: int, time_steps: int, inputs: int, hidden: int) -> Case:
    """Makes a case: "GRU", "GRU, starts", "GRU, lengths", "LSTM" or "bidirectional stack"."""
    keys = jax.random.split(jax.random.key(0), 4)
    xs = jax.random.normal(keys[1], (time_steps, batch, inputs))
    controls: dict[str, jax.Array] = {}
    if name == "bidirectional stack":
        params: Any = gru_jax.init_stack(keys[0], inputs, hidden, num_layers=2, bidirectional=True)
    else:
        init = gru_jax.init_lstm if name == "LSTM" else gru_jax.init
        params = init(keys[0], inputs, hidden)
    if name == "GRU, starts":
        shape = (time_steps, batch)
        controls["starts"] = jax.random.bernoulli(keys[3], START_PROBABILITY, shape)
    if name == "GRU, lengths":
        controls["lengths"] = jax.random.randint(keys[3], (batch,), 1, time_steps + 1)
    unroll: Any = gru_jax.unroll_stack if isinstance(params, gru_jax.Stack) else gru_jax.unroll

    def outputs(params: Any, xs: jax.Array, controls: dict[str, jax.Array]) -> jax.Array:
        return unroll(params, xs, **controls)[1]

    shape = jax.eval_shape(outputs, params, xs, controls).shape
    return Case(outputs, params, xs, controls, jax.random.normal(keys[2], shape))


class Worker:
    """Answers requests; the last case that was made stays ready to run."""

    def __init__(self) -> None:
        self._case: Case | None = None
        self._compiled: dict[str, Callable[[], Any]] = {}

    def package(self) -> str:
        """The file of the `gru_jax` that this process has imported."""
        return str(Path(gru_jax.__file__).resolve())

    def prepare(self, name: str, size: list[int]) -> None:
        """Makes a case."""
        self._case = make_case(name, *size)
        self._compiled = {}

    def compile(self, kind: str) -> dict[str, float]:
        """Traces and compiles from empty caches.

        Returns:
            Milliseconds of "trace", which is tracing and lowering to StableHLO, and "compile".
        """
        assert self._case is not None
        function, arguments = _program(self._case, kind)
        _clear_caches()
        begin = time.perf_counter()
        lowered = jax.jit(function).lower(*arguments)
        traced = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
        self._compiled[kind] = lambda: jax.block_until_ready(compiled(*arguments))
        return {"trace": (traced - begin) * 1e3, "compile": (end - traced) * 1e3}

    def run(self, kind: str, calls: int) -> float:
        """Milliseconds per call, over calls in a row that follow one that is not timed."""
        run = self._compiled[kind]
        run()
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - begin) * 1e3 / calls

    def load(self, module: str, path: str, seconds: float, least: int) -> list[float]:
        """Milliseconds of each of several loads of a file in a row, without the import.

        Args:
            module: the module whose `load` is called.
            path: the file.
            seconds: how long it is loaded, after the first time.
            least: how often it is loaded again, at least.
        """
        load = importlib.import_module(module).load
        found: list[float] = []
        while len(found) <= least or sum(found[1:]) < seconds * 1e3:
            begin = time.perf_counter()
            loaded = jax.block_until_ready(load(Path(path)))
            found.append((time.perf_counter() - begin) * 1e3)
            # Before the next load, as in a program that loads one model after the other.
            del loaded
        return found


def _program(case: Case, kind: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function that JAX has not seen yet, and its arguments."""

    def forward(params: Any, xs: jax.Array, controls: Any) -> jax.Array:
        return case.unroll(params, xs, controls)

    def loss(params: Any, xs: jax.Array, controls: Any, weights: jax.Array) -> jax.Array:
        return jnp.sum(case.unroll(params, xs, controls) * weights)

    if kind == "forward":
        return forward, (case.params, case.xs, case.controls)
    return jax.grad(loss, (0, 1)), (case.params, case.xs, case.controls, case.weights)


def _clear_caches() -> None:
    """Clears JAX's caches and those that `gru_jax` has of its own."""
    jax.clear_caches()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "gru_jax":
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    gc.collect()


def _main() -> None:
    # What a library prints must not stand among the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = Worker()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, name)(*arguments)), file=replies, flush=True)


if __name__ == "__main__":
    _main()
