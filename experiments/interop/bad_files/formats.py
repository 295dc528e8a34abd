"""The kinds of files that are read: a good one of each, and what is made of it to test readers."""

import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax

import gru_jax
from experiments.interop.bad_files import adversarial as hostile
from experiments.interop.bad_files.fuzz import Survey, damaged, damaged_entries, rezip, survey
from gru_jax.interop import keras as keras_interop
from gru_jax.interop import safetensors as ours_on_disk
from gru_jax.interop import torch as torch_interop

KEY = jax.random.key(0)
STACK = gru_jax.init_stack(KEY, 1, 2, num_layers=2, bidirectional=True, bias_init="torch")


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        module: of `gru_jax.interop`, which reads it.
        suffix: of its names.
        good: a file of it.
        hostile: hand-made files by what is wrong with them.
    """

    module: str
    suffix: str
    good: bytes
    hostile: dict[str, bytes]

    @property
    def name(self) -> str:
        """How a table calls it."""
        return f"{self.module}: {self.suffix}"

    def damaged(self, count: int, seed: int = 0) -> Iterator[bytes]:
        """Damaged copies; of an archive every other one is a valid archive of a damaged entry."""
        if not self.good.startswith(b"PK"):
            return damaged(self.good, count, seed)
        within = damaged_entries(self.good, count // 2, seed)
        return itertools.chain(within, damaged(self.good, count - count // 2, seed))

    def survey(self, files: Iterable[bytes]) -> Survey:
        """What becomes of files in the reader."""
        return survey(f"gru_jax.interop.{self.module}", self.suffix, self.good, files)


def ours(folder: Path) -> Format:
    """Our own parameters."""
    good = ours_on_disk.dump(STACK)
    return Format("safetensors", ".safetensors", good, hostile.safetensors(good))


def torch_safetensors(folder: Path) -> Format:
    """A state dict in .safetensors."""
    import safetensors.numpy

    good = safetensors.numpy.save(torch_interop.dump(STACK, tensors=False))
    return Format("torch", ".safetensors", good, hostile.safetensors(good))


def torch_pt(folder: Path) -> Format:
    """A state dict as torch.save writes it."""
    import torch

    out = io.BytesIO()
    torch.save(torch_interop.dump(STACK), out)
    return Format("torch", ".pt", out.getvalue(), hostile.torch(out.getvalue(), folder))


def keras_h5(folder: Path) -> Format:
    """The weights of one GRU, as Keras' `save_weights` lays them out."""
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for index, array in enumerate(keras_interop.dump(gru_jax.init(KEY, 3, 2))):
            file[f"layers/gru/cell/vars/{index}"] = array
        file["layers/gru/cell/vars"].attrs["name"] = "gru_cell"
    good = out.getvalue()
    return Format("keras", ".weights.h5", good, hostile.hdf5(good, folder))


def keras_archive(folder: Path) -> Format:
    """A model of one GRU, as Keras' `save` lays it out."""
    weights = keras_h5(folder)
    gru = {"name": "gru", "units": 2, "activation": "tanh", "recurrent_activation": "sigmoid"}
    gru |= {"use_bias": True, "reset_after": True, "go_backwards": False, "unroll": False}
    layers = [{"module": "keras.layers", "class_name": "GRU", "config": gru}]
    config = {"module": "keras", "class_name": "Sequential", "config": {"layers": layers}}
    good = rezip({"config.json": json.dumps(config).encode(), "model.weights.h5": weights.good})
    return Format(
        "keras", ".keras", good, hostile.keras(good, weights.hostile["a link into another file"])
    )


def onnx_model(folder: Path) -> Format:
    """A model of GRU nodes."""
    from experiments.interop.bad_files.adversarial_onnx import hostile_files
    from gru_jax.interop import onnx as onnx_interop

    good = onnx_interop.dump(STACK).SerializeToString()
    return Format("onnx", ".onnx", good, hostile_files())


FORMATS = {
    make.__name__: make
    for make in (ours, torch_safetensors, torch_pt, keras_h5, keras_archive, onnx_model)
}
"""`(folder) -> Format`, where what hostile files refer to is written into the folder."""

SLOW = {"keras_h5", "keras_archive"}
"""Each of these files is read in a process of its own."""
