"""How a shard's results lie in one object: a summary that a reader gets by its first bytes, then the lines.

The summary is a skippable frame of the Zstandard format (RFC 8878, section 3.1.2) that holds a CRC-32 and
JSON, so `zstd -dc` and every other reader of .zst passes over it and sees plain JSON Lines.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
import zstandard

from ...storage.errors import Corrupt
from ..record import Counts

_MAGIC = 0x184D2A50
_HEADER = struct.Struct("<III")
_CRC_BYTES = 4
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
    return _HEADER.pack(_MAGIC, _CRC_BYTES + len(head), zlib.crc32(head)) + head + body


def compress(lines: list[bytes]) -> bytes:
    """Lines as one Zstandard frame with a checksum."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(b"".join(line + b"\n" for line in lines))


def decompress(data: bytes) -> list[bytes]:
    """Lines of one Zstandard frame. Raises Corrupt."""
    # Not in one call: that would allocate whatever size a damaged frame claims to have.
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        text = decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise Corrupt(f"stored lines can't be decompressed: {error}") from error
    if not decompressor.eof or decompressor.unused_data:
        raise Corrupt("stored lines are cut off, or something follows them")
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
        magic, size, crc = _HEADER.unpack_from(data)
        end = _HEADER.size - _CRC_BYTES + size
        text = data[_HEADER.size : end]
        if magic != _MAGIC or len(data) < end or zlib.crc32(text) != crc:
            raise Corrupt("a shard's object does not begin with its summary")
        head: dict[str, Any] = orjson.loads(text)
        counts = Counts(**head.pop("counts"))
        return Summary(counts=counts, **head), end
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"a shard's summary can't be read: {error}") from error
