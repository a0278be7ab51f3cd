"""Rows packed into shards, and what a worker reads back from one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import zstandard

from ...storage.errors import Corrupt
from .identifiers import Identifiers, Repeated
from .problems import Findings, Problem, RefusedInput
from .reading import empty
from .rows import DEFAULT_LIMITS, InputRow, Limits


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A slice of a job's rows.

    Attributes:
        index: from 0.
        rows: how many, at least 1.
        data: their lines, each ended by a newline, as one Zstandard frame with a checksum.
        moves_bytes: of all its rows.
    """

    index: int
    rows: int
    data: bytes
    moves_bytes: int = 0


class ContentDigest:
    """A SHA-256 over rows in their order, whatever shards they are packed into.

    It is that of a file with the rows' lines. Lines that mean the same but are written differently
    (other white space, keys in another order) differ.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, row: InputRow) -> None:
        """Take in one more row."""
        self._sha.update(row.line + b"\n")

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return self._sha.hexdigest()


def pack(
    rows: Iterable[InputRow], *, shard_rows: int, moves_bytes: float = math.inf, limits: Limits = DEFAULT_LIMITS
) -> Iterator[PackedShard]:
    """Pack rows into shards, with the memory of about one shard.

    The shards count only once the iterator has ended: a problem further on refuses them all. Once a
    repeated custom_id is found, no more shards are given.

    Args:
        rows: from read_rows; its problems and those found here are told together.
        shard_rows: rows per shard, at least 1; the last may have fewer, and so do those that reach
            `limits.shard_bytes` or would move more than `moves_bytes` (a single row always may).
        limits: see Limits.

    Raises:
        RefusedInput: a custom_id came twice, there are no rows, or `rows` raised it.
    """
    found = Findings(limits.problems)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    waiting: list[bytes] = []
    size = moving = index = 0
    with Identifiers() as seen:
        for row in _until_refused(rows, found):
            if repeated := seen.add(row.custom_id, row.where):
                found.add(_duplicate(repeated))
            if found:
                continue
            line = row.line
            is_full = size + len(line) >= limits.shard_bytes or moving + row.moves_bytes > moves_bytes
            if waiting and (len(waiting) >= shard_rows or is_full):
                yield PackedShard(index, len(waiting), _compressed(waiting, compressor), moving)
                index += 1
                size = moving = 0
                waiting = []
            waiting.append(line)
            size += len(line) + 1
            moving += row.moves_bytes
        for repeated in seen.finish(limits.problems + 1):
            found.add(_duplicate(repeated))
    found.raise_if_any()
    if not waiting:
        raise RefusedInput((empty("the input"),))
    yield PackedShard(index, len(waiting), _compressed(waiting, compressor), moving)


def unpack(data: bytes) -> list[bytes]:
    """The lines of a shard, without newlines. Raises Corrupt when they are not what was packed."""
    try:
        text = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Corrupt(f"a shard of the input can't be decompressed: {error}") from error
    if not text.endswith(b"\n"):
        raise Corrupt("a shard of the input does not end with a whole line")
    return text[:-1].split(b"\n")


def parse(line: bytes) -> tuple[str, str, dict[str, Any]]:
    """custom_id, url ("" when the row names none) and body of a line that was validated before.

    Raises Corrupt for a line that never was.
    """
    try:
        row = orjson.loads(line)
        return row["custom_id"], row.get("url") or "", row["body"]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"a line of the input is not a row: {error!r}") from error


def _compressed(lines: list[bytes], compressor: zstandard.ZstdCompressor) -> bytes:
    lines.append(b"")
    return compressor.compress(b"\n".join(lines))


def _until_refused(rows: Iterable[InputRow], found: Findings) -> Iterator[InputRow]:
    try:
        yield from rows
    except RefusedInput as refused:
        found.take(refused)


def _duplicate(repeated: Repeated) -> Problem:
    return Problem(
        repeated.where,
        "duplicate_custom_id",
        f"custom_id {orjson.dumps(repeated.custom_id).decode()} was used before, "
        f"{_earlier(repeated.earlier, repeated.where)}.",
        "Each row needs its own custom_id, because results are matched by it.",
    )


def _earlier(first: str, now: str) -> str:
    """The first place, short when it is in the same file."""
    file, _, position = first.rpartition(", ")
    if file and file == now.rpartition(", ")[0]:
        return f"on {position}" if position.startswith("line ") else f"in {position}"
    return f"in {first}"
