"""One cached object: its blocks on this machine's disk."""

from __future__ import annotations

import logging
import mmap
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from ..checksums import crc32c
from .layout import (
    BLOCK_BYTES,
    ENTRY_BYTES,
    HEADER_BYTES,
    USE_AT,
    Subject,
    Use,
    blocks_around,
    differing,
    entries,
    entry_at,
    missing,
    subject_of,
    sums_of,
)
from .locks import RangeLock

log = logging.getLogger(__name__)

_FLIGHTS_AT, _PIN_AT = 2**48, 2**49
"""Where locks lie: far behind any data."""
_PIN_PATIENCE_S = 2.0
_CHECKED_BLOCKS = 256
_MAP_NORESERVE = 0x4000  # Linux; the module has no name for it before Python 3.13


class CachedObject:
    """An object's file in the cache. Any thread may use it; other processes use the same file.

    It may be removed by others at any time, which its holders don't notice: the file is theirs until they close it.

    Args:
        fd: of its file, open for reading and writing; closed with this.
    """

    def __init__(self, path: Path, fd: int, subject: Subject) -> None:
        self.path = path
        self.subject = subject
        self._fd = fd

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @classmethod
    def open(cls, path: Path) -> CachedObject | None:
        """The one at a path; None if there is none, or what is there can't be trusted."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        found = subject_of(os.pread(fd, HEADER_BYTES, 0))
        if found is None or os.fstat(fd).st_size != found[0].file_bytes:
            os.close(fd)
            return None
        return cls(path, fd, found[0])

    @property
    def is_current(self) -> bool:
        """Whether others still find it."""
        return os.fstat(self._fd).st_nlink > 0

    @property
    def use(self) -> Use:
        """How it was used, as far as is written down."""
        found = subject_of(os.pread(self._fd, HEADER_BYTES, 0))
        return found[1] if found is not None else Use(0.0)

    def used(self, now_s: float) -> None:
        """It is opened once more, at so many seconds since the epoch."""
        os.pwrite(self._fd, self.use.again(now_s).packed(), USE_AT)

    def held_bytes(self) -> int:
        """How many bytes of blocks are there; the last block of an object may be a short one."""
        sums = self._sums(0, self.subject.blocks)
        held = sum(found is not None for found in sums) * BLOCK_BYTES
        is_short = bool(sums) and sums[-1] is not None
        return held - (-self.subject.size % BLOCK_BYTES if is_short else 0)

    def missing(self, start: int, end: int, gap_bytes: int = 0) -> list[tuple[int, int]]:
        """Ranges of bytes, made of whole blocks, that are not there of a range; near ones are taken together."""
        first, last = blocks_around(start, min(end, self.subject.size))
        runs = missing(self._sums(first, last), first, gap_bytes // BLOCK_BYTES)
        return [(begin * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.subject.size)) for begin, stop in runs]

    def whole(self, start: int, end: int) -> tuple[int, int] | None:
        """The whole blocks in a range of bytes, as a range; None if there are none."""
        end = min(end, self.subject.size)
        first = -(-start // BLOCK_BYTES) * BLOCK_BYTES
        stop = end if end == self.subject.size else end // BLOCK_BYTES * BLOCK_BYTES
        return (first, stop) if first < stop else None

    def read_into(self, start: int, into: memoryview) -> bool:
        """Fill a buffer with bytes from `start` on, if all of them are there and are what was written.

        A block that is not is forgotten, so that it is fetched again.
        """
        if start >= self.subject.size:  # there is nothing to read
            return True
        end = start + len(into)
        first, last = blocks_around(start, end)
        sums = self._sums(first, last)
        if None in sums:
            return False
        begin, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.subject.size)
        before, after = bytearray(start - begin), bytearray(stop - end)
        wanted = stop - begin
        got = os.preadv(self._fd, [before, into, after], self.subject.data_at + begin)
        while 0 < got < wanted:  # the system reads at most 2 GiB at once
            more = os.preadv(self._fd, _from([before, into, after], got), self.subject.data_at + begin + got)
            if not more:
                break
            got += more
        if got < wanted:
            self._distrust(first, last)
            return False
        wrong = self._differing(first, cast("list[int]", sums), start, into, before, after)
        for block in wrong:
            self._distrust(block, block + 1)
        return not wrong

    def write(self, start: int, data: memoryview) -> None:
        """Keep whole blocks: from the beginning of one to the end of one, or of the object. Raises OSError."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], self.subject.data_at + start + done)
        sums = [crc32c(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
        os.pwrite(self._fd, entries(sums), entry_at(start // BLOCK_BYTES))

    def mapped(self) -> mmap.mmap:
        """The object's bytes as memory, shared with all who map it; what is written there stays one's own.

        It is not removed to make room for as long as the memory is in use. Nothing in it is to be believed before
        `unsound` was asked. Raises OSError.
        """
        pin = self.pin()
        try:
            if not pin.acquire(_PIN_PATIENCE_S):
                raise BlockingIOError(f"{self.path} is being removed")
            memory = private(self._fd, self.subject.size, self.subject.data_at)
        except BaseException:
            pin.close()
            raise
        weakref.finalize(memory, pin.close)
        return memory

    def unsound(self, first: int, last: int, memory: memoryview) -> list[int]:
        """Blocks, of those from `first` to before `last`, that are not there, or not what was written.

        Those are forgotten, so that they are fetched again.

        Args:
            memory: of `mapped`, where they are looked at.
        """
        sums = self._sums(first, last)
        wrong = self._wrong(first, sums, memory[first * BLOCK_BYTES : last * BLOCK_BYTES])
        return sorted([*wrong, *(first + place for place, crc in enumerate(sums) if crc is None)])

    def check(self) -> list[int]:
        """Read all blocks that are there; returns those whose bytes are not what was written, which are forgotten."""
        wrong: list[int] = []
        for first in range(0, self.subject.blocks, _CHECKED_BLOCKS):
            last = min(first + _CHECKED_BLOCKS, self.subject.blocks)
            begin, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.subject.size)
            data = os.pread(self._fd, stop - begin, self.subject.data_at + begin)
            wrong += self._wrong(first, self._sums(first, last), memoryview(data))
        return wrong

    def flight(self, start: int, end: int) -> RangeLock:
        """A lock for whoever fetches this range of bytes."""
        first, last = blocks_around(start, end)
        return RangeLock(self._itself(), _FLIGHTS_AT + first, last - first)

    def pin(self) -> RangeLock:
        """A lock that keeps it from being removed to make room, for as long as somebody holds one."""
        return RangeLock(self._itself(), _PIN_AT, 1, shared=True)

    def removal(self) -> RangeLock:
        """A lock that nobody gets who has not pinned it alone."""
        return RangeLock(self._itself(), _PIN_AT, 1)

    def _itself(self) -> Path:
        # By its descriptor, since its name may be gone by now.
        return Path(f"/proc/self/fd/{self._fd}")

    def _sums(self, first: int, last: int) -> list[int | None]:
        return sums_of(os.pread(self._fd, (last - first) * ENTRY_BYTES, entry_at(first)))

    def _wrong(self, first: int, sums: Sequence[int | None], data: memoryview) -> list[int]:
        """Which blocks of these bytes are there but not what was written; they are forgotten."""
        wrong: list[int] = []
        for begin, stop in _there(sums):
            run = data[begin * BLOCK_BYTES : stop * BLOCK_BYTES]
            wrong += (first + begin + place for place in differing(cast("list[int]", sums[begin:stop]), run))
        for block in wrong:
            self._distrust(block, block + 1)
        return wrong

    def _differing(
        self, first: int, sums: list[int], start: int, into: memoryview, before: bytearray, after: bytearray
    ) -> list[int]:
        """Which blocks are not what was written, of those that were read into a buffer, and before and behind it."""
        last = first + len(sums)
        head, tail = first + bool(before), last - bool(after)
        edges: dict[int, tuple[bytearray | memoryview, ...]] = {}
        if head > tail:  # there is one block only, on both sides of the buffer
            edges[first] = (before, into, after)
            tail = head
        else:
            if before:
                edges[first] = (before, into[: head * BLOCK_BYTES - start])
            if after:
                edges[last - 1] = (into[tail * BLOCK_BYTES - start :], after)
        whole = into[max(0, head * BLOCK_BYTES - start) : max(0, tail * BLOCK_BYTES - start)]
        wrong = [head + place for place in differing(sums[head - first : tail - first], whole)]
        for block, parts in edges.items():
            found = 0
            for part in parts:
                found = crc32c(part, found)
            if found != sums[block - first]:
                wrong.append(block)
        return wrong

    def _distrust(self, first: int, last: int) -> None:
        """Forget blocks, unless they were removed meanwhile."""
        os.pwrite(self._fd, bytes((last - first) * ENTRY_BYTES), entry_at(first))
        log.warning(
            "%s: blocks %d to %d of the cached %s were not what had been written; they are fetched again",
            self.path, first, last - 1, self.subject.path,
        )  # fmt: skip


def private(fd: int, length: int, at: int = 0) -> mmap.mmap:
    """A part of a file as memory; what is written there is not written to the file, and seen by nobody else."""
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    return mmap.mmap(fd, length, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=at)


def _there(sums: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Runs of blocks that are there, (first, one after the last)."""
    begin = 0
    for place, crc in enumerate(sums):
        if crc is None:
            if begin < place:
                yield begin, place
            begin = place + 1
    if begin < len(sums):
        yield begin, len(sums)


def _from(buffers: Sequence[bytearray | memoryview], skip: int) -> list[memoryview]:
    """What follows the first so many bytes of some buffers."""
    left: list[memoryview] = []
    for buffer in buffers:
        view = memoryview(buffer)
        left.append(view[min(skip, len(view)) :])
        skip = max(0, skip - len(view))
    return left
