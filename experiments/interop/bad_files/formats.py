"""The file formats that are read, each with a valid file and with bad files made from it."""

import dataclasses
import functools
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import gru_jax
from experiments.interop.bad_files import (
    adversarial,
    checkpoint_archive,
    constructed,
    pt,
    run_archive,
)
from experiments.interop.bad_files.archives import rezip
from experiments.interop.bad_files.fuzz import Outcome, corrupt, corrupt_entries, fuzz
from gru_jax import export
from gru_jax.interop import keras as keras_interop
from gru_jax.interop import safetensors as safetensors_interop
from gru_jax.interop import torch as torch_interop

Constructed: TypeAlias = Callable[[int, int], Iterator[bytes]]
"""`(count, seed) -> files`."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        module: the module that reads it.
        suffix: suffix of the file names.
        good: a valid file.
        adversarial: files by what is wrong with them; each must be rejected.
        constructed: makes valid containers with adversarial content.
        large: makes a valid file whose size in bytes is about that of the argument.
        changed: makes corrupted copies, `(count, seed) -> files`; None for those of the content.
    """

    module: str
    suffix: str
    good: bytes
    adversarial: dict[str, bytes]
    constructed: Constructed
    large: Callable[[int], bytes]
    changed: Callable[[int, int], Iterator[bytes]] | None = None

    @property
    def name(self) -> str:
        """The name in a table."""
        module = self.module
        for prefix in ("gru_jax.", "interop.", "experiments.interop.bad_files."):
            module = module.removeprefix(prefix)
        return f"{module}: {self.suffix}"

    def corrupted(self, count: int, seed: int = 0) -> Iterator[bytes]:
        """Corrupted copies; of an archive, half are valid archives with a corrupted entry."""
        if self.changed is not None:
            return self.changed(count, seed)
        if not self.good.startswith(b"PK"):
            return corrupt(self.good, count, seed)
        within = corrupt_entries(self.good, count // 2, seed)
        return itertools.chain(within, corrupt(self.good, count - count // 2, seed))

    def fuzz(self, files: Iterable[bytes]) -> Iterator[Outcome]:
        """Reads files and says what happened to each."""
        return fuzz(self.module, self.suffix, self.good, files)


def own_safetensors(folder: Path) -> Format:
    """Our own parameters."""

    def large(size: int) -> bytes:
        return safetensors_interop.dump(_of_size(size))

    good = safetensors_interop.dump(_stack())
    return Format(
        "gru_jax.interop.safetensors",
        ".safetensors",
        good,
        adversarial.safetensors(good),
        functools.partial(constructed.safetensors, good),
        large,
    )


def torch_safetensors(folder: Path) -> Format:
    """A state dict in .safetensors."""
    import safetensors.numpy

    def large(size: int) -> bytes:
        return safetensors.numpy.save(torch_interop.dump(_of_size(size), tensors=False))

    good = safetensors.numpy.save(torch_interop.dump(_stack(), tensors=False))
    return Format(
        "gru_jax.interop.torch",
        ".safetensors",
        good,
        adversarial.safetensors(good),
        functools.partial(constructed.safetensors, good),
        large,
    )


def torch_pt(folder: Path) -> Format:
    """A state dict as torch.save writes it."""

    def large(size: int) -> bytes:
        return pt.save(torch_interop.dump(_of_size(size), tensors=False))

    good = pt.save(torch_interop.dump(_stack(), tensors=False))
    return Format(
        "gru_jax.interop.torch",
        ".pt",
        good,
        adversarial.torch(good, folder) | pt.adversarial(),
        functools.partial(constructed.torch, good),
        large,
    )


def keras_h5(folder: Path) -> Format:
    """The weights of one GRU, as Keras' `save_weights` writes them."""
    good = _keras_weights(gru_jax.init(jax.random.key(0), 3, 2))
    return Format(
        "gru_jax.interop.keras",
        ".weights.h5",
        good,
        adversarial.hdf5(good, folder),
        constructed.hdf5,
        lambda size: _keras_weights(_of_size(size)),
    )


def keras_archive(folder: Path) -> Format:
    """A model of one GRU, as Keras' `save` writes it."""
    weights = keras_h5(folder)
    good = _keras_model(weights.good, units=2)

    def large(size: int) -> bytes:
        params = _of_size(size)
        return _keras_model(_keras_weights(params), units=params.hidden_size)

    return Format(
        "gru_jax.interop.keras",
        ".keras",
        good,
        adversarial.keras(good, weights.adversarial["a link into another file"]),
        functools.partial(constructed.keras, good),
        large,
    )


def onnx_model(folder: Path) -> Format:
    """A model of GRU nodes."""
    from experiments.interop.bad_files import adversarial_onnx
    from gru_jax.interop import onnx as onnx_interop

    good = onnx_interop.dump(_stack()).SerializeToString()
    return Format(
        "gru_jax.interop.onnx",
        ".onnx",
        good,
        adversarial_onnx.adversarial_files(),
        functools.partial(adversarial_onnx.constructed, good),
        lambda size: onnx_interop.dump(_of_size(size)).SerializeToString(),
    )


def program(folder: Path) -> Format:
    """An exported program."""
    good = export.export_step(gru_jax.init(jax.random.key(0), 3, 2), platforms=("cpu",))
    return Format(
        "gru_jax.export",
        ".gru",
        good,
        adversarial.program(good),
        functools.partial(constructed.program, good),
        lambda size: export.export_step(_of_size(size), platforms=("cpu",)),
    )


def checkpoint(folder: Path) -> Format:
    """A checkpoint of a GRU with its optimizer, as an archive of its directory."""
    good = checkpoint_archive.save(4)
    return Format(
        checkpoint_archive.__name__,
        ".zip",
        good,
        checkpoint_archive.adversarial(good),
        functools.partial(checkpoint_archive.constructed, good),
        # Parameters and two moments of each.
        lambda size: checkpoint_archive.save(round((size / 4 / 9) ** 0.5)),
        functools.partial(checkpoint_archive.corrupted, good),
    )


def run_directory(folder: Path) -> Format:
    """The records of a run, as an archive of its directory."""
    good = run_archive.save(20)
    return Format(
        run_archive.__name__,
        ".zip",
        good,
        run_archive.adversarial(good),
        functools.partial(run_archive.constructed, good),
        lambda size: run_archive.save(size // 163),
        functools.partial(corrupt_entries, good),
    )


@functools.cache
def _stack() -> gru_jax.Stack:
    key = jax.random.key(0)
    return gru_jax.init_stack(key, 1, 2, num_layers=2, bidirectional=True, bias_init="torch")


def _of_size(size: int) -> gru_jax.GRUParams:
    """A GRU whose float32 parameters take about ``size`` bytes."""
    hidden = max(2, round((size / 4 / 6) ** 0.5))
    # Sampling an orthogonal matrix of this size would take minutes.
    shapes = jax.eval_shape(lambda: gru_jax.init(jax.random.key(0), hidden, hidden))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape, np.float32)), shapes
    )


def _keras_weights(params: gru_jax.GRUParams) -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for index, array in enumerate(keras_interop.dump(params)):
            file[f"layers/gru/cell/vars/{index}"] = array
        file["layers/gru/cell/vars"].attrs["name"] = "gru_cell"
    return out.getvalue()


def _keras_model(weights: bytes, *, units: int) -> bytes:
    gru = {"name": "gru", "units": units, "activation": "tanh", "recurrent_activation": "sigmoid"}
    gru |= {"use_bias": True, "reset_after": True, "go_backwards": False, "unroll": False}
    layers = [{"module": "keras.layers", "class_name": "GRU", "config": gru}]
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": layers}}
    return rezip({"config.json": json.dumps(config).encode(), "model.weights.h5": weights})


FORMATS = {
    make.__name__: make
    for make in (
        own_safetensors,
        torch_safetensors,
        torch_pt,
        keras_h5,
        keras_archive,
        onnx_model,
        program,
        checkpoint,
        run_directory,
    )
}
"""`(folder) -> Format`; files that the adversarial ones refer to are written into the folder."""
