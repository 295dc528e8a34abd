"""Reads uncompressed ZIP archives on whose content all readers agree."""

import struct
import zlib
from typing import NamedTuple

MAX_DIRECTORY_BYTES = 2 << 20
"""Size limit of the central directory. An entry of PyTorch's takes about 70 bytes."""

HAS_DESCRIPTOR = 1 << 3
UTF8_NAME = 1 << 11
STORED = 0

END = struct.Struct("<4sHHHHIIH")
END_64 = struct.Struct("<4sQHHIIQQQQ")
LOCATOR_64 = struct.Struct("<4sIQI")
DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
NOT_HERE = 0xFFFFFFFF
"""A 32-bit size or offset whose value is in the extra field."""


class Entry(NamedTuple):
    """An entry's name, and where its content is."""

    name: str
    crc: int
    begin: int
    end: int


class Archive:
    """The entries of a ZIP archive. Nothing is extracted to disk, nothing is copied.

    A ZIP file can hold several directories, and each reader has its own way of choosing one. Every
    byte must therefore belong to exactly one record: the entries are adjacent and stored without
    compression, one directory follows them, its end record is the end of the file, and each entry's
    own header agrees with the directory. PyTorch, Keras and `zipfile` write such archives.

    Args:
        data: the file's content.

    Raises:
        ValueError: not such an archive, or its directory is larger than
            :data:`MAX_DIRECTORY_BYTES`.
    """

    def __init__(self, data: bytes):
        self._data = memoryview(data)
        try:
            self._entries = self._read_directory()
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"no valid ZIP archive: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def names(self) -> list[str]:
        """The entries' names, in the order of the directory."""
        return list(self._entries)

    def read(self, name: str, *, check: bool = True) -> memoryview:
        """An entry's content; ValueError if it is absent or, with ``check``, its CRC-32 differs."""
        if name not in self._entries:
            raise ValueError(f"the archive has no entry {name!r}")
        entry = self._entries[name]
        content = self._data[entry.begin : entry.end]
        if check and zlib.crc32(content) != entry.crc:
            raise ValueError(f"the archive's entry {name!r} is corrupted: its CRC-32 differs")
        return content

    def _read_directory(self) -> dict[str, Entry]:
        start, end, count = self._find_directory()
        if end - start > MAX_DIRECTORY_BYTES:
            raise ValueError(
                f"the archive's directory has {end - start} bytes, more than the limit of "
                f"{MAX_DIRECTORY_BYTES}"
            )
        entries: dict[str, Entry] = {}
        position, next_entry = start, 0
        for _ in range(count):
            entry, position, next_entry = self._read_entry(position, next_entry)
            if entry.name in entries:
                raise ValueError(f"the archive has two entries {entry.name!r}")
            entries[entry.name] = entry
        if position != end or next_entry != start:
            raise ValueError("the archive has bytes that belong to no entry")
        return entries

    def _find_directory(self) -> tuple[int, int, int]:
        """The directory's begin and end, and its number of entries."""
        at = len(self._data) - END.size
        if at < 0 or self._data[at : at + 4] != b"PK\5\6":
            raise ValueError("no valid ZIP archive: it does not end with an end record")
        _, disk, first_disk, on_disk, count, size, start, comment = END.unpack_from(self._data, at)
        if (disk, first_disk, comment) != (0, 0, 0):
            raise ValueError("the archive has several parts or a comment")
        end = at
        locator = at - LOCATOR_64.size
        if locator >= END_64.size and self._data[locator : locator + 4] == b"PK\6\7":
            end = locator - END_64.size
            _, _, found, disks = LOCATOR_64.unpack_from(self._data, locator)
            magic, length, _, _, *place = END_64.unpack_from(self._data, end)
            values = (disk, first_disk, on_disk, count, size, start)
            same = all(
                short in (long, limit)
                for short, long, limit in zip(
                    values, place, (0, 0, 0xFFFF, 0xFFFF, NOT_HERE, NOT_HERE), strict=True
                )
            )
            if (
                (magic, length, found) != (b"PK\6\6", END_64.size - 12, end)
                or disks > 1
                or not same
            ):
                raise ValueError("the archive's two end records differ")
            _, _, on_disk, count, size, start = place
        if start + size != end or on_disk != count:
            raise ValueError("the archive's directory is not where its end record says")
        return start, end, count

    def _read_entry(self, at: int, offset: int) -> tuple[Entry, int, int]:
        """An entry whose record in the directory is at ``at`` and whose header is at ``offset``.

        Returns:
            The entry, and where the next record and the next header are.
        """
        magic, _, _, flags, method, _, _, crc, *sizes, disk, _, _, header = (
            DIRECTORY_ENTRY.unpack_from(self._data, at)
        )
        packed, size, name_size, extra_size, comment_size = sizes
        at += DIRECTORY_ENTRY.size
        name = bytes(self._data[at : at + name_size])
        extra = self._data[at + name_size : at + name_size + extra_size]
        size, packed, header = _long_values(extra, (size, packed, header))
        label = name[:100].decode("utf-8", "replace")
        if magic != b"PK\1\2" or disk:
            raise ValueError("the archive's directory is corrupted")
        if flags & ~(HAS_DESCRIPTOR | UTF8_NAME) or method != STORED or packed != size:
            raise ValueError(f"the archive's entry {label!r} is compressed or encrypted")
        if header != offset:
            raise ValueError(f"the archive's entry {label!r} does not follow the one before it")

        magic, _, local_flags, local_method, _, _, *local = LOCAL_HEADER.unpack_from(
            self._data, offset
        )
        local_crc, local_packed, local_size, local_name_size, local_extra_size = local
        offset += LOCAL_HEADER.size
        local_name = self._data[offset : offset + local_name_size]
        offset += local_name_size
        local_extra = self._data[offset : offset + local_extra_size]
        local_size, local_packed = _long_values(local_extra, (local_size, local_packed))
        begin = offset + local_extra_size
        end = begin + size
        values = (local_crc, local_packed, local_size)
        deferred = flags & HAS_DESCRIPTOR and values == (0, 0, 0)
        if (
            (magic, local_flags, local_method, local_name) != (b"PK\3\4", flags, method, name)
            or not (deferred or values == (crc, size, size))
            or end > len(self._data)
        ):
            raise ValueError(f"the archive's entry {label!r} differs from the directory")
        after = end + (self._descriptor_size(end, crc, size) if flags & HAS_DESCRIPTOR else 0)
        at += name_size + extra_size + comment_size
        return Entry(name.decode(), crc, begin, end), at, after

    def _descriptor_size(self, at: int, crc: int, size: int) -> int:
        """The size of the record after an entry whose header was written before its content."""
        for form, values in (
            ("<4sIQQ", (b"PK\7\10", crc, size, size)),
            ("<4sIII", (b"PK\7\10", crc, size, size)),
            ("<IQQ", (crc, size, size)),
            ("<III", (crc, size, size)),
        ):
            length = struct.calcsize(form)
            if self._data[at : at + length] == struct.pack(form, *values):
                return length
        raise ValueError("an entry of the archive ends with a record that differs from it")


def _long_values(extra: memoryview, values: tuple[int, ...]) -> list[int]:
    """The values, with those that do not fit into 32 bits from the extra field."""
    at = 0
    found: list[int] = list(values)
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            long = [place for place, value in enumerate(values) if value == NOT_HERE]
            for index, place in enumerate(long):
                (found[place],) = struct.unpack_from("<Q", extra, at + 4 + 8 * index)
            if size < 8 * len(long):
                raise ValueError("an extra field of the archive is too short")
        at += 4 + size
    return found
