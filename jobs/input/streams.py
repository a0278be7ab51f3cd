"""Bytes of a file, decompressed, without a byte order mark, and cut into lines: never much of it at once."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import zstandard

from .formats import Compression
from .problems import UnusableError

_CHUNK_BYTES = 256 * 1024
# So much of zstd makes at most 8 MB, were it only repeated bytes; of ordinary data it makes a kilobyte or two.
_ZSTD_STEP_BYTES = 256
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class TooLong:
    """Stands for a line that was longer than allowed; the line itself was not kept.

    Attributes:
        size: its length in bytes.
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


def text_chunks(file: BinaryIO, compression: Compression, where: str) -> Iterator[bytes]:
    """The file's text in pieces of bounded size, decompressed and without a byte order mark.

    Raises:
        UnusableError: it can't be decompressed, or is UTF-16.
    """
    chunks = _decompressed(file, compression, where)
    first = b""
    for chunk in chunks:
        first += chunk
        if len(first) >= len(_UTF8_MARK):
            break
    if first.startswith(_UTF16_MARKS):
        raise UnusableError(
            where,
            "bad_encoding",
            "begins like UTF-16; text must be UTF-8.",
            "Save it as UTF-8, for example by: iconv -f UTF-16 -t UTF-8 <old >new.",
        )
    yield first.removeprefix(_UTF8_MARK)
    yield from chunks


def lines(chunks: Iterator[bytes], limit: int) -> Iterator[bytes | TooLong]:
    """Lines without their newline. Of one longer than `limit` bytes only the length is kept."""
    rest = b""
    skipped = 0
    for chunk in chunks:
        head, *tail = chunk.split(b"\n")
        if skipped:
            skipped += len(head)
            if not tail:
                continue
            yield TooLong(skipped)
            skipped, rest = 0, b""
        else:
            rest += head
            if tail:
                yield rest if len(rest) <= limit else TooLong(len(rest))
        if tail:
            rest = tail.pop()
            if len(chunk) <= limit:
                yield from tail
            else:
                for line in tail:
                    yield line if len(line) <= limit else TooLong(len(line))
        if len(rest) > limit:
            skipped, rest = len(rest), b""
    if skipped:
        yield TooLong(skipped)
    elif rest:
        yield rest


def _decompressed(file: BinaryIO, compression: Compression, where: str) -> Iterator[bytes]:
    try:
        match compression:
            case "":
                yield from _read(file)
            case "gz":
                with gzip.GzipFile(fileobj=file) as opened:
                    yield from _read(cast("BinaryIO", opened))
            case "bz2":
                with bz2.BZ2File(file) as opened:
                    yield from _read(cast("BinaryIO", opened))
            case "xz":
                with lzma.LZMAFile(file) as opened:
                    yield from _read(cast("BinaryIO", opened))
            case "zst":
                yield from _zstd(file)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise UnusableError(
            where,
            "bad_compression",
            f"can't be decompressed as .{compression}: {str(error).rstrip('.')}.",
            "Check that it was copied whole and that its suffix says how it was compressed.",
        ) from error


def _read(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _zstd(file: BinaryIO) -> Iterator[bytes]:
    # Not stream_reader: it takes the end of a truncated file for the end of the data.
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    for chunk in _read(file):
        made: list[bytes] = []
        size = 0
        for start in range(0, len(chunk), _ZSTD_STEP_BYTES):
            data = chunk[start : start + _ZSTD_STEP_BYTES]
            while data:
                frame = frame or decompressor.decompressobj()
                piece = frame.decompress(data)
                data = b""
                if frame.eof:
                    data, frame = frame.unused_data, None
                made.append(piece)
                size += len(piece)
                if size >= _CHUNK_BYTES:
                    yield b"".join(made)
                    made, size = [], 0
        yield b"".join(made)
    if frame is not None:
        raise EOFError("it ends in the middle of a frame")
