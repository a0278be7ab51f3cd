"""Read a source row by row, validating as it streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from .places import Place, place_of
from .problems import Findings, Problem, UnusableError
from .rows import DEFAULT_LIMITS, InputRow, Limits, Source
from .shapes import refuse_encoding, refuse_length, row_from_body, row_from_line, row_from_mapping
from .sources import InputFile, find_files
from .streams import TooLong, lines, text_chunks
from .tables import read_csv, read_parquet


def read_rows(
    source: Source,
    *,
    limits: Limits = DEFAULT_LIMITS,
    storage_options: Mapping[str, Any] | None = None,
    exclude: Callable[[str], bool] | None = None,
) -> Iterator[InputRow]:
    """Read and validate a job's rows, one after another, with the memory of a few rows.

    The rows count only once the iterator has ended: a problem further on refuses them all. After the first
    problem the good rows are still given, so that who consumes them (see `pack`) can name more problems.
    That custom_ids differ is checked by `pack`.

    Args:
        source: rows, a file, a folder, a glob or an fsspec URL; docs/reference/input.md shows each.
        limits: how long rows may be, and how many problems are collected.
        storage_options: passed to fsspec with a URL; never shown.
        exclude: asked about each file and folder that a folder or glob comes upon, by its absolute path or
            URL; what it answers true for is left out. Without it nothing is.

    Raises:
        RefusedInput: at the end, or as soon as there are more problems than `limits.problems`.
        MissingExtra: what the URL or the file needs is not installed.
        StoreUnavailable: a file system did not answer; the same call may work later.
    """
    found = Findings(limits.problems)
    is_empty = True
    shown = "the rows"
    if isinstance(source, str | os.PathLike):
        shown = os.fspath(source)
        rows = _from_path(shown, limits, storage_options, exclude, found)
    else:
        rows = _from_items(source, limits, found)
    try:
        for row in rows:
            is_empty = False
            yield row
    except UnusableError as error:
        found.add(error.problem)
    found.raise_if_any()
    if is_empty:
        found.add(empty(shown))
        found.raise_if_any()


def empty(where: str) -> Problem:
    """The problem of an input without rows."""
    return Problem(where, "empty_input", "holds no rows.", "Submit at least one.")


def _from_items(items: Iterable[str | Mapping[str, Any]], limits: Limits, found: Findings) -> Iterator[InputRow]:
    kind: type[object] = type(items)
    if issubclass(kind, bytes | bytearray | Mapping) or not hasattr(items, "__iter__"):
        raise UnusableError(
            "the input",
            "bad_source",
            f"is a Python {kind.__name__}.",
            "Give rows (a list or any iterable), a path, a glob or a URL.",
        )
    for number, item in enumerate(items, 1):
        where, default_id = f"row {number}", f"row-{number}"
        try:
            row = _from_item(item, default_id, where, limits)
        except UnusableError as error:
            found.add(error.problem)
            continue
        yield row


def _from_item(item: object, default_id: str, where: str, limits: Limits) -> InputRow:
    if isinstance(item, str):
        return row_from_body(default_id, {"input": item}, where, limits)
    if isinstance(item, Mapping):
        return row_from_mapping(cast("Mapping[str, Any]", item), default_id, where, limits)
    raise UnusableError(
        where,
        "bad_row_type",
        f"is a Python {type(item).__name__}, neither text nor a mapping.",
        'Give a str, or a dict like {"custom_id": "doc-1", "input": "some text"}.',
    )


def _from_path(
    path: str,
    limits: Limits,
    storage_options: Mapping[str, Any] | None,
    exclude: Callable[[str], bool] | None,
    found: Findings,
) -> Iterator[InputRow]:
    place, inside = place_of(path, storage_options)
    for file in find_files(place, inside, exclude, found):
        try:
            yield from _from_file(place, file, limits, found)
        except UnusableError as error:
            found.add(error.problem)


def _from_file(place: Place, file: InputFile, limits: Limits, found: Findings) -> Iterator[InputRow]:
    with place.open(file.path) as opened:
        if file.format.kind == "parquet":
            yield from read_parquet(opened, file.where, file.id_prefix, limits, found)
            return
        chunks = text_chunks(opened, file.format.compression, file.where)
        match file.format.kind:
            case "jsonl":
                yield from _from_lines(chunks, file, limits, found)
            case "csv":
                yield from read_csv(chunks, file.where, file.id_prefix, limits, found)
            case "text":
                yield _from_text(chunks, file, limits)


def _from_lines(chunks: Iterator[bytes], file: InputFile, limits: Limits, found: Findings) -> Iterator[InputRow]:
    start = f"{file.where}, line "
    prefix = f"{file.id_prefix}row-"
    for number, line in enumerate(lines(chunks, limits.row_bytes), 1):
        try:
            if isinstance(line, TooLong):
                refuse_length(line.size, f"{start}{number}", limits)
            text = line.strip()
            if not text:
                continue
            row = row_from_line(text, f"{prefix}{number}", f"{start}{number}", limits)
        except UnusableError as error:
            found.add(error.problem)
            continue
        yield row


def _from_text(chunks: Iterator[bytes], file: InputFile, limits: Limits) -> InputRow:
    kept: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size <= limits.row_bytes:
            kept.append(chunk)
    if size > limits.row_bytes:
        refuse_length(size, file.where, limits)
    data = b"".join(kept)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        for number, line in enumerate(data.split(b"\n"), 1):
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                refuse_encoding(line, wrong, f"{file.where}, line {number}")
        raise
    return row_from_body(file.name, {"input": text}, file.where, limits)
