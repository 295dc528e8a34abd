"""Files of tables: text with separators, and Parquet, read strictly and in bounded memory."""

import csv
import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from experiments.errors import UserError
from experiments.files import read_bytes
from experiments.runs.memory import machine_memory
from experiments.suggest import did_you_mean

# Its functions are made when it is imported.
pc: Any = pyarrow.compute

TEXT = (".csv", ".tsv", ".txt")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*TEXT, *(f"{suffix}.gz" for suffix in TEXT), *PARQUET)
SEPARATORS = ",;\t|"
# Bytes of memory per byte of a text file: the text and the cells of some columns are objects of
# Python, the others arrays. A table of 43 MB and a million rows took 0.6 GB in all.
EXPANSION = 12
# Where the machine does not tell its memory.
LARGEST = 2**36
# Rows whose cells are Python objects at the same time.
CHUNK = 20_000
SAMPLE = 200
MISSING = pa.array(["", "na", "n/a", "#n/a", "nan", "null", "none"])
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
OTHER_FILES = {
    b"PK\x03\x04": "an Excel or ZIP file",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"PAR1": "a Parquet file: its name should end in .parquet",
    b"\x1f\x8b": "compressed: its name should end in .gz",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "an SQLite file",
    b"\x93NUMPY": "an array of NumPy",
}


@dataclass(frozen=True)
class Table:
    """Rows of one or more files with the same columns.

    Attributes:
        cells: the columns: texts of a text file, whose missing values are null, else typed.
        paths: the files.
        file: (rows,) index of each row's file.
        lines: (rows,) line of a text file where the row begins, or row of a Parquet file, from 1.
        masks: which cells are numbers, by column and decimal mark, as far as it was asked.
    """

    cells: pa.Table
    paths: tuple[Path, ...]
    file: np.ndarray
    lines: np.ndarray
    masks: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)

    def where(self, row: int) -> str:
        """Returns the file and the line of a row, for messages."""
        path = self.paths[self.file[row]]
        return f"{path}, {'row' if _is_parquet(path) else 'line'} {self.lines[row]}"

    def __str__(self) -> str:
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)


def find_tables(path: str) -> list[Path]:
    """Returns the files of a path: a file, a folder with files, or a pattern such as data/*.csv.

    Raises:
        UserError: there is none.
    """
    if os.path.isdir(path):
        found = [file for file in Path(path).rglob("*") if file.name.lower().endswith(SUFFIXES)]
        if not found:
            raise UserError(f"{path} holds no table: no file with the suffix {_either(SUFFIXES)}.")
        return sorted(found)
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(map(Path, glob.glob(path, recursive=True)))
        if not found:
            raise UserError(f"No file matches {path}.")
        return found
    if not os.path.lexists(path):
        folder = Path(path).parent
        near = [str(file) for file in folder.glob("*") if file.name.lower().endswith(SUFFIXES)]
        raise UserError(f"There is no file {path}.{did_you_mean(path, near)}")
    return [Path(path)]


def read_tables(path: str, separator: str | None) -> Table:
    """Reads the tables of a path into one.

    Args:
        path: as for :func:`find_tables`.
        separator: separator of text files; None to detect it in each.

    Raises:
        UserError: a file cannot be read or is no table, has no rows or other columns than the first
            file, or the files are too large for the machine's memory.
    """
    paths = find_tables(path)
    memory = machine_memory() or LARGEST
    size = sum(file.stat().st_size for file in paths if file.exists())
    if size * EXPANSION > memory:
        raise UserError(
            f"{path} has {size / 2**30:,.1f} GiB, of which reading needs {EXPANSION} times as much "
            f"memory, but this machine has {memory / 2**30:,.1f} GiB. Use fewer rows or columns."
        )
    tables = [
        _read_parquet(file, memory) if _is_parquet(file) else _read_text(file, separator, memory)
        for file in paths
    ]
    return _concatenate(tables)


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return path.name.lower().endswith(SUFFIXES)


def _is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(PARQUET)


def _read_text(path: Path, separator: str | None, memory: int) -> Table:
    text = _decode(path, memory)
    separator = separator or detect_separator(text)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
    )
    lines: list[int] = []
    rows: list[list[str]] = []
    chunks: list[list[pa.Array]] = []
    names: list[str] = []
    line = 1
    try:
        for row in reader:
            begun, line = line, reader.line_num + 1
            if not row:
                continue
            if not names:
                names = _names(row, path, begun)
                continue
            if len(row) != len(names):
                raise UserError(_ragged(f"{path}, line {begun}", row, names, separator))
            rows.append(row)
            lines.append(begun)
            if len(rows) == CHUNK:
                chunks.append(_columns(rows))
                rows = []
    except csv.Error as error:
        reason = str(error)
        if "end of data" in reason:
            reason = "a quotation mark is not closed"
        raise UserError(f"{path}, line {line} is not a row of a table: {reason}.") from None
    if rows:
        chunks.append(_columns(rows))
    if not names:
        raise UserError(f"{path} is empty, but should have a header with the columns' names.")
    if not chunks:
        raise UserError(f"{path} has a header, but no rows below it.")
    cells = {
        name: _without_missing(pa.chunked_array(column))
        for name, column in zip(names, zip(*chunks, strict=True), strict=True)
    }
    kept = {
        name: column
        for name, column in cells.items()
        if not (_is_unnamed(name) and column.null_count == len(column))
    }
    return Table(pa.table(kept), (path,), np.zeros(len(lines), int), np.array(lines))


def _decode(path: Path, memory: int) -> str:
    most = memory // EXPANSION
    content = read_bytes(path, most)
    if path.name.lower().endswith(".gz"):
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a valid .gz file: {error}.") from None
        if len(content) > most:
            raise UserError(
                f"{path} decompresses to more than {most / 2**30:,.1f} GiB, for which this "
                "machine's memory is too small."
            )
    for magic, kind in OTHER_FILES.items():
        if content.startswith(magic):
            raise UserError(f"{path} is {kind}. Expected is a text file such as .csv.")
    encoding = next((name for bom, name in BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line} is not UTF-8: it holds the byte 0x{content[error.start]:02x}. "
            "Save the file as UTF-8."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line} holds a null character, which no text table has.")
    return text


def detect_separator(text: str) -> str:
    """Returns the separator with which the first rows have the same number of cells, above one.

    Of several, it is the one with the most cells. If there is none, it is the one with the most
    cells in the header.
    """
    sample = "".join(text[: 2**20].splitlines(keepends=True)[:SAMPLE])

    def counts(separator: str) -> list[int]:
        reader = csv.reader(
            io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True
        )
        try:
            return [len(row) for row in reader if row]
        except csv.Error:
            return []

    found = {separator: counts(separator) for separator in SEPARATORS}
    regular = {
        separator: lengths[0]
        for separator, lengths in found.items()
        if lengths and lengths[0] > 1 and len(set(lengths[:-1] or lengths)) == 1
    }
    if regular:
        return max(regular, key=lambda separator: regular[separator])
    return max(found, key=lambda separator: found[separator][0] if found[separator] else 0)


def _names(row: list[str], path: Path, line: int) -> list[str]:
    """Returns the names of the columns in a header; those without one are numbered."""
    stripped = [" ".join(name.split()) for name in row]
    if all(NUMBER.fullmatch(name) for name in stripped):
        raise UserError(
            f"{path}, line {line} is {_shortened(', '.join(stripped))}, but the first line should "
            "be the header with the columns' names."
        )
    names = [name or f"column {place}" for place, name in enumerate(stripped, 1)]
    _check_names(names, path)
    return names


def _check_names(names: Sequence[str], path: Path) -> None:
    for place, name in enumerate(names, 1):
        if name in names[: place - 1]:
            raise UserError(
                f"{path} has two columns {name!r}, the {names.index(name) + 1}. and the {place}., "
                "but names should differ."
            )


def _is_unnamed(name: str) -> bool:
    return re.fullmatch(r"column \d+", name) is not None


def _ragged(where: str, row: list[str], names: list[str], separator: str) -> str:
    message = (
        f"{where} has {len(row)} cells, but the header has {len(names)} columns "
        f"(separator {separator!r})."
    )
    if separator == "," and len(row) > len(names):
        message += " If numbers have decimal commas, use another separator, or quote them."
    return message


def _columns(rows: list[list[str]]) -> list[pa.Array]:
    return [pa.array(column, pa.large_string()) for column in zip(*rows, strict=True)]


def _without_missing(column: pa.ChunkedArray) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(column)
    is_missing = pc.is_in(pc.utf8_lower(trimmed), value_set=MISSING.cast(pa.large_string()))
    return pc.if_else(is_missing, pa.scalar(None, pa.large_string()), trimmed)


def _read_parquet(path: Path, memory: int) -> Table:
    if not path.is_file():
        raise UserError(f"{path} cannot be read: it is not a regular file.")
    try:
        with pq.ParquetFile(path) as file:
            rows = file.metadata.num_rows
            columns = file.schema_arrow
            size = rows * len(columns) * 8 + sum(
                file.metadata.row_group(group).total_byte_size
                for group in range(file.num_row_groups)
            )
            _check_names(columns.names, path)
            if 2 * size > memory:
                raise UserError(
                    f"{path} has {rows:,} rows of {len(columns)} columns, which need "
                    f"{2 * size / 2**30:,.1f} GiB, but this machine has {memory / 2**30:,.1f} GiB."
                )
            cells = file.read()
            # Texts may be no UTF-8, and lengths and offsets wrong.
            cells.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a readable Parquet file: {first[:200]}") from None
    if not rows:
        raise UserError(f"{path} has no rows.")
    for name in cells.column_names:
        if name.startswith("__index_level_"):
            cells = cells.drop_columns([name])
    typed = {name: _checked_type(cells[name], name, path) for name in cells.column_names}
    return Table(pa.table(typed), (path,), np.zeros(rows, int), np.arange(1, rows + 1))


def _checked_type(column: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _without_missing(column.cast(pa.large_string()))
    if pa.types.is_boolean(kind):
        # As text files have them.
        return pc.if_else(column, "True", "False").cast(pa.large_string())
    if pa.types.is_null(kind):
        return column.cast(pa.float64())
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
    ):
        return column
    raise UserError(
        f"{path}: the column {name!r} holds values of type {kind}, but should hold numbers, texts "
        "or times."
    )


def _concatenate(tables: list[Table]) -> Table:
    first = tables[0].cells
    for table in tables[1:]:
        path = table.paths[0]
        for one, other, has, lacks in (
            (first, table.cells, tables[0].paths[0], path),
            (table.cells, first, path, tables[0].paths[0]),
        ):
            absent = [name for name in one.column_names if name not in other.column_names]
            if absent:
                raise UserError(
                    f"{lacks} has no column {absent[0]!r}, which {has} has. All files should have "
                    "the same columns."
                )
    try:
        cells = pa.concat_tables(
            [table.cells.select(first.column_names) for table in tables],
            promote_options="permissive",
        )
    except pa.ArrowException as error:
        raise UserError(
            f"The files {tables[0].paths[0]} to {tables[-1].paths[0]} have columns of different "
            f"types: {str(error).splitlines()[0][:200]}"
        ) from None
    return Table(
        cells,
        tuple(table.paths[0] for table in tables),
        np.repeat(np.arange(len(tables)), [len(table.lines) for table in tables]),
        np.concatenate([table.lines for table in tables]),
    )


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."
