"""How a shard's results lie in one object: a summary that a reader gets by its first bytes, then the lines.

The summary is a skippable frame of the Zstandard format (RFC 8878, section 3.1.2), so `zstd -dc` and every
other reader of .zst passes over it and sees plain JSON Lines.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import zstandard

from ...storage.errors import Corrupt
from ..record import Counts

_MAGIC = 0x184D2A50
_HEADER = struct.Struct("<II")
SUMMARY_BYTES = 2048
"""A first read of this many bytes always holds the summary."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a shard's object says about itself.

    Attributes:
        counts: rows by outcome.
        engine: what computed, e.g. {"name": "minilm", "version": …, "weights": "sha256:…"}.
        worker: who committed it.
        engine_s: seconds that the engine was busy with it, in the turn that committed it.
    """

    counts: Counts
    engine: dict[str, str] = field(default_factory=dict[str, str])
    worker: str = ""
    engine_s: float = 0.0


def encode(summary: Summary, lines: list[bytes]) -> bytes:
    """The object of a shard with these result lines (without newlines), in input order."""
    if summary.counts.total != len(lines):
        raise ValueError(f"{len(lines)} lines, but the counts say {summary.counts.total}")
    head = orjson.dumps(asdict(summary))
    if len(head) + _HEADER.size > SUMMARY_BYTES:
        raise ValueError(f"a summary of {len(head)} bytes is too long")
    body = compress(lines)
    return _HEADER.pack(_MAGIC, len(head)) + head + body


def compress(lines: list[bytes]) -> bytes:
    """Lines as one Zstandard frame with a checksum."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"".join(line + b"\n" for line in lines))


def decompress(data: bytes) -> list[bytes]:
    """Lines of one Zstandard frame. Raises Corrupt."""
    try:
        text = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"stored lines can't be decompressed: {error}") from error
    return text.split(b"\n")[:-1]


def summary(data: bytes) -> Summary:
    """The summary, from an object or from its first SUMMARY_BYTES. Raises Corrupt."""
    return _split(data)[0]


def decode(data: bytes) -> tuple[Summary, list[bytes]]:
    """Summary and lines of a shard's object. Raises Corrupt."""
    found, start = _split(data)
    lines = decompress(data[start:])
    if len(lines) != found.counts.total:
        raise Corrupt(f"a shard has {len(lines)} lines, but its summary says {found.counts.total}")
    return found, lines


def _split(data: bytes) -> tuple[Summary, int]:
    try:
        magic, size = _HEADER.unpack_from(data)
        if magic != _MAGIC or len(data) < _HEADER.size + size:
            raise Corrupt("a shard's object does not begin with its summary")
        head: dict[str, Any] = orjson.loads(data[_HEADER.size : _HEADER.size + size])
        counts = Counts(**head.pop("counts"))
        return Summary(counts=counts, **head), _HEADER.size + size
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"a shard's summary can't be read: {error}") from error
