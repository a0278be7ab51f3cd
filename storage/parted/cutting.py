"""How a file is cut: into slices, each a row, and these into pieces, each one write to the store. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PIECE_BYTES = 8 * 2**20
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Cut:
    """How a file is cut; the last slice and the last piece may be shorter.

    Attributes:
        slice_bytes: a whole number of pieces.
    """

    piece_bytes: int
    slice_bytes: int


def cut(size_bytes: int, *, slice_bytes: int, parts_most: int | None) -> Cut:
    """How to cut a file of this size.

    Args:
        slice_bytes: how much should be done by one row.
        parts_most: into how many pieces at most; None: it can't be written in pieces, so it stays whole.
    """
    if parts_most is None:
        whole = max(1, size_bytes)
        return Cut(whole, whole)
    least = -(-size_bytes // parts_most)
    piece = max(PIECE_BYTES, -(-least // _MIB) * _MIB)
    return Cut(piece, piece * max(1, slice_bytes // piece))


def slices(size_bytes: int, slice_bytes: int) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of each slice; an empty file has one, which is empty."""
    for first in range(0, max(1, size_bytes), slice_bytes):
        yield first, min(slice_bytes, size_bytes - first)


def pieces(first: int, size_bytes: int, piece_bytes: int) -> list[tuple[int, int, int]]:
    """(number in the file, start, end) of each piece of a slice; an empty slice has one, which is empty."""
    end = first + size_bytes
    starts = range(first, end, piece_bytes) or (first,)
    return [(start // piece_bytes, start, min(start + piece_bytes, end)) for start in starts]
