"""Tables: CSV with a header, and Parquet. A column is the input, one may be the id, the rest is metadata."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

from ...storage.errors import MissingExtra
from .problems import Findings, UnusableError
from .rows import InputRow, Limits
from .shapes import refuse_encoding, row_from_body
from .streams import TooLong, lines

_INPUTS = ("input", "text")
_IDS = ("custom_id", "id")
_BATCH_BYTES = 4 * 2**20
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column means what."""

    names: tuple[str, ...]
    input: int
    custom_id: int | None
    metadata: tuple[int, ...]

    def body(self, cells: Sequence[Any]) -> dict[str, Any]:
        """The request that a row of the table stands for."""
        body: dict[str, Any] = {"input": cells[self.input]}
        if self.metadata:
            body["metadata"] = {self.names[index]: cells[index] for index in self.metadata}
        return body


def columns_of(names: Sequence[str], where: str) -> Columns:
    """The columns of a table with these names.

    Raises:
        UnusableError: no column is the input, or two have one name.
    """
    repeated = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if repeated is not None:
        raise UnusableError(
            where, "repeated_column", f'has two columns named "{repeated}".', "Rename or remove one of them."
        )
    found_input = next((names.index(name) for name in _INPUTS if name in names), None)
    if found_input is None:
        cure = 'Name the column to infer on "input" in the first line.'
        if len(names) == 1 and (separator := next((sign for sign in ";\t|" if sign in names[0]), None)):
            cure = f"Separate the columns by commas, not by {separator!r}. {cure}"
        shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        raise UnusableError(where, "missing_column", f'has no column "input" or "text", only: {shown}.', cure)
    found_id = next((names.index(name) for name in _IDS if name in names), None)
    rest = tuple(index for index in range(len(names)) if index not in (found_input, found_id))
    return Columns(tuple(names), found_input, found_id, rest)


def read_csv(
    chunks: Iterator[bytes], where: str, id_prefix: str, limits: Limits, found: Findings
) -> Iterator[InputRow]:
    """Rows of a CSV file: comma-separated, UTF-8, quotes doubled within quotes, the first line the header.

    Raises:
        UnusableError: for what makes the rest of the file unreadable.
    """
    # The limit is one for the whole process, and only ever raised here; `_Feed` holds the bound per row.
    if csv.field_size_limit() < limits.row_bytes:
        csv.field_size_limit(limits.row_bytes)
    feed = _Feed(chunks, where, limits)
    reader = csv.reader(feed, strict=True)
    columns: Columns | None = None
    number = 0
    while True:
        start = feed.begin_record()
        place = f"{where}, line {start}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UnusableError(
                place,
                "bad_csv",
                f"the row that begins here is not CSV: {error}.",
                "Put fields that hold commas, quotes or line breaks in quotes, and double their quotes.",
            ) from error
        if cells is None:
            break
        if not cells:
            continue
        if columns is None:
            columns = columns_of(cells, where)
            continue
        number += 1
        try:
            row = _csv_row(cells, columns, place, f"{id_prefix}row-{number}", limits)
        except UnusableError as error:
            found.add(error.problem)
            continue
        yield row


def _csv_row(cells: list[str], columns: Columns, place: str, default_id: str, limits: Limits) -> InputRow:
    if len(cells) != len(columns.names):
        raise UnusableError(
            place,
            "bad_csv",
            f"has {len(cells)} fields, but the header has {len(columns.names)}.",
            "Put fields that hold commas in quotes.",
        )
    custom_id = default_id if columns.custom_id is None else cells[columns.custom_id]
    return row_from_body(custom_id, columns.body(cells), place, limits)


class _Feed:
    """Decoded lines for the CSV reader, with a bound on what one record may take up."""

    def __init__(self, chunks: Iterator[bytes], where: str, limits: Limits) -> None:
        self._lines = lines(chunks, limits.row_bytes)
        self._where = where
        self._limit = limits.row_bytes
        self._number = 0
        self._start = 1
        self._used = 0

    def begin_record(self) -> int:
        """Note that a record begins; returns its line, from 1."""
        self._used = 0
        self._start = self._number + 1
        return self._start

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._number += 1
        size = line.size if isinstance(line, TooLong) else len(line)
        self._used += size + 1
        if isinstance(line, TooLong) or self._used > self._limit:
            # What follows can't be told apart from what is within the quotes: the file ends here.
            raise UnusableError(
                f"{self._where}, line {self._start}",
                "row_too_long",
                f"the row that begins here is longer than {self._limit:,} bytes.",
                "Close the quote that may be open there, or split the row into several.",
            )
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError as error:
            refuse_encoding(line, error, f"{self._where}, line {self._number}")


def read_parquet(file: BinaryIO, where: str, id_prefix: str, limits: Limits, found: Findings) -> Iterator[InputRow]:
    """Rows of a Parquet file, a few megabytes at a time.

    Raises:
        UnusableError: the file can't be read, or has no usable columns.
        MissingExtra: pyarrow is not installed.
    """
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtra(f"reading {where}", extra="parquet", module=error.name or "pyarrow") from error
    try:
        table: Any = parquet.ParquetFile(file, pre_buffer=False, buffer_size=_BATCH_BYTES)
        schema: Any = table.schema_arrow
        columns = columns_of(list(schema.names), where)
        _check_types(schema, columns, where)
        number = 0
        for batch in table.iter_batches(batch_size=_batch_rows(table.metadata)):
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                place = f"{where}, row {number}"
                try:
                    row = _parquet_row(cells, columns, place, f"{id_prefix}row-{number}", limits)
                except UnusableError as error:
                    found.add(error.problem)
                    continue
                yield row
    except (arrow.ArrowException, OSError) as error:
        raise UnusableError(
            where, "bad_parquet", f"is not whole Parquet: {error}.", "Check that it was copied whole."
        ) from error


def _parquet_row(cells: tuple[Any, ...], columns: Columns, place: str, default_id: str, limits: Limits) -> InputRow:
    if cells[columns.input] is None:
        name = columns.names[columns.input]
        raise UnusableError(place, "missing_input", f'"{name}" is null.', "Fill it in, or leave the row out.")
    custom_id = default_id if columns.custom_id is None else cells[columns.custom_id]
    if type(custom_id) is int:
        custom_id = str(custom_id)
    return row_from_body(custom_id, columns.body(cells), place, limits)


def _check_types(schema: Any, columns: Columns, where: str) -> None:
    for index, name in enumerate(columns.names):
        kind = str(schema.field(index).type)
        if "binary" in kind:
            raise UnusableError(
                where,
                "bad_column",
                f'the column "{name}" is of type {kind}, which JSON can\'t carry.',
                "Leave the column out, or turn it into text.",
            )
        if index == columns.input and not any(part in kind for part in ("string", "list")):
            raise UnusableError(
                where,
                "bad_column",
                f'the column "{name}" is of type {kind}, not text.',
                "Turn it into strings.",
            )


def _batch_rows(metadata: Any) -> int:
    """As many rows as make a few megabytes, by what the file says about its size."""
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    average = max(1, size // max(1, metadata.num_rows))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // average))
