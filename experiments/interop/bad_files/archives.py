"""ZIP files of given entries."""

import io
import zipfile
from collections.abc import Mapping


def unzip(data: bytes) -> dict[str, bytes]:
    """The entries of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of entries; without times, so that equal entries give equal files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, entry in entries.items():
            archive.writestr(zipfile.ZipInfo(name), entry, compression)
    return out.getvalue()
