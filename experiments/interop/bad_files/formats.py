"""The file formats that are read, each with a valid file and with bad files made from it."""

import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

import gru_jax
from experiments.interop.bad_files import adversarial, pt
from experiments.interop.bad_files.archives import rezip
from experiments.interop.bad_files.fuzz import FuzzReport, corrupt, corrupt_entries, fuzz
from gru_jax.interop import keras as keras_interop
from gru_jax.interop import safetensors as safetensors_interop
from gru_jax.interop import torch as torch_interop

KEY = jax.random.key(0)
STACK = gru_jax.init_stack(KEY, 1, 2, num_layers=2, bidirectional=True, bias_init="torch")


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        module: the module of `gru_jax.interop` that reads it.
        suffix: suffix of the file names.
        good: a valid file.
        adversarial: adversarial files by what is wrong with them.
    """

    module: str
    suffix: str
    good: bytes
    adversarial: dict[str, bytes]

    @property
    def name(self) -> str:
        """The name in a table."""
        return f"{self.module}: {self.suffix}"

    def corrupted(self, count: int, seed: int = 0) -> Iterator[bytes]:
        """Corrupted copies; of an archive, half are valid archives with a corrupted entry."""
        if not self.good.startswith(b"PK"):
            return corrupt(self.good, count, seed)
        within = corrupt_entries(self.good, count // 2, seed)
        return itertools.chain(within, corrupt(self.good, count - count // 2, seed))

    def fuzz(self, files: Iterable[bytes]) -> FuzzReport:
        """Reads files and reports what happened."""
        return fuzz(f"gru_jax.interop.{self.module}", self.suffix, self.good, files)


def own_safetensors(folder: Path) -> Format:
    """Our own parameters."""
    good = safetensors_interop.dump(STACK)
    return Format("safetensors", ".safetensors", good, adversarial.safetensors(good))


def torch_safetensors(folder: Path) -> Format:
    """A state dict in .safetensors."""
    import safetensors.numpy

    good = safetensors.numpy.save(torch_interop.dump(STACK, tensors=False))
    return Format("torch", ".safetensors", good, adversarial.safetensors(good))


def torch_pt(folder: Path) -> Format:
    """A state dict as torch.save writes it."""
    good = pt.save(torch_interop.dump(STACK, tensors=False))
    return Format("torch", ".pt", good, adversarial.torch(good, folder) | pt.constructed())


def keras_h5(folder: Path) -> Format:
    """The weights of one GRU, as Keras' `save_weights` writes them."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for index, array in enumerate(keras_interop.dump(gru_jax.init(KEY, 3, 2))):
            file[f"layers/gru/cell/vars/{index}"] = array
        file["layers/gru/cell/vars"].attrs["name"] = "gru_cell"
    good = out.getvalue()
    return Format("keras", ".weights.h5", good, adversarial.hdf5(good, folder))


def keras_archive(folder: Path) -> Format:
    """A model of one GRU, as Keras' `save` writes it."""
    weights = keras_h5(folder)
    gru = {"name": "gru", "units": 2, "activation": "tanh", "recurrent_activation": "sigmoid"}
    gru |= {"use_bias": True, "reset_after": True, "go_backwards": False, "unroll": False}
    layers = [{"module": "keras.layers", "class_name": "GRU", "config": gru}]
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": layers}}
    good = rezip({"config.json": json.dumps(config).encode(), "model.weights.h5": weights.good})
    return Format(
        "keras",
        ".keras",
        good,
        adversarial.keras(good, weights.adversarial["a link into another file"]),
    )


def onnx_model(folder: Path) -> Format:
    """A model of GRU nodes."""
    from experiments.interop.bad_files.adversarial_onnx import adversarial_files
    from gru_jax.interop import onnx as onnx_interop

    good = onnx_interop.dump(STACK).SerializeToString()
    return Format("onnx", ".onnx", good, adversarial_files())


FORMATS = {
    make.__name__: make
    for make in (own_safetensors, torch_safetensors, torch_pt, keras_h5, keras_archive, onnx_model)
}
"""`(folder) -> Format`; files that the adversarial ones refer to are written into the folder."""

SLOW = {"keras_h5", "keras_archive"}
"""Formats of which every file is read in a process of its own."""
