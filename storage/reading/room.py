"""Where the bytes of a part lie until they are read.

Most reads are of any length, or into the reader's own memory: a buffer that is used again and again serves them all, by
a copy. Who reads in order by `read(n)` wants bytes of that length every time: these are made before they are asked for,
the answer comes straight into them, and they are handed out as they are. The copies of 1 GiB would take 0.16 s of 0.8
(two cores that a store on loopback shares), and while one is made nobody else has the interpreter.
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

from ..answer import Space
from .buffers import Buffers
from .heap import Each, Unread, unread

LEAST_PIECE_BYTES = 256 * 1024
"""Smaller reads are copied: a piece costs a call of the system and one of the allocator, whatever its size."""


class Room(Space, Protocol):
    """Memory for one part, counted in the budget until it is given back."""

    def take(self, at: int, length: int) -> bytes:
        """Bytes that have come, and lie in this room."""
        ...

    def give_back(self) -> None:
        """Nobody looks at it any more."""
        ...


class Buffer:
    """One buffer: what is read is copied from it.

    Attributes:
        whole: all of it.
    """

    def __init__(self, memory: mmap.mmap, length: int, buffers: Buffers) -> None:
        self._memory = memory
        self._buffers = buffers
        self.whole = memoryview(memory)[:length]

    @classmethod
    def within(cls, buffers: Buffers, length: int) -> Buffer | None:
        """A buffer of that length; None when the budget does not allow it."""
        memory = buffers.take(length)
        return None if memory is None else cls(memory, length, buffers)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, which: slice, /) -> memoryview:
        return self.whole[which]

    def take(self, at: int, length: int) -> bytes:
        return bytes(self.whole[at : at + length])

    def give_back(self) -> None:
        self.whole.release()
        self._buffers.give_back(self._memory)


class Pieces:
    """Bytes that are handed out as they are to whoever reads exactly one piece.

    What was handed out is kept until all of it is given back, so that it can be read again.

    Their memory is made after the requests for them are on their way, since the first byte takes longer: see `make`.
    Whoever writes to them before waits for that.
    """

    def __init__(self, lengths: Sequence[int], buffers: Buffers) -> None:
        self._starts = [0, *accumulate(lengths)]
        self._pieces: list[Unread | bytes] = []
        self._views: list[memoryview] = []
        self._buffers = buffers
        self._is_made = threading.Event()

    @classmethod
    def within(cls, buffers: Buffers, lengths: Sequence[int]) -> Pieces | None:
        """Pieces of such lengths; None when the budget does not allow them."""
        return cls(lengths, buffers) if buffers.admit_read(sum(lengths)) else None

    def make(self, upto_bytes: int, each: Each) -> None:
        """Make their memory, see `unread`. Raises MemoryError."""
        try:
            pieces = unread([end - start for start, end in pairwise(self._starts)], upto_bytes, each)
            self._pieces = list(pieces)
            self._views = [piece.memory for piece in pieces]
        finally:
            self._is_made.set()

    def give_up(self) -> None:
        """They won't be made."""
        self._is_made.set()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, which: slice, /) -> memoryview:
        begin, end, _ = which.indices(len(self))
        if begin >= end:
            return memoryview(b"")
        if not self._views:
            self._is_made.wait()
            if not self._views:
                raise MemoryError(f"there is no memory for {len(self)} bytes that were to be read ahead")
        place = self._place(begin)
        offset = self._starts[place]
        return self._views[place][begin - offset : end - offset]

    def take(self, at: int, length: int) -> bytes:
        place = self._place(at)
        piece = self._pieces[place]
        if self._starts[place] != at or self._starts[place + 1] != at + length:
            return b"".join(self._between(at, at + length))
        if isinstance(piece, bytes):
            return piece
        found = self._pieces[place] = piece.read()
        self._views[place] = memoryview(found)
        return found

    def give_back(self) -> None:
        self._buffers.dismiss(len(self))

    def _place(self, at: int) -> int:
        return bisect_right(self._starts, at) - 1

    def _between(self, begin: int, end: int) -> list[memoryview]:
        found: list[memoryview] = []
        while begin < end:
            found.append(self[begin:end])
            begin += len(found[-1])
        return found


def make(rooms: Sequence[Pieces], each: Each) -> None:
    """Make the memory of pieces, of the first first. Raises MemoryError.

    Args:
        each: lets several cores share that.
    """
    left = sum(len(room) for room in rooms)
    for room in rooms:
        room.make(left, each)
        left -= len(room)
