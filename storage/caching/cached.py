"""One cached object: its blocks on this machine's disk."""

from __future__ import annotations

import logging
import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from ..checksums import crc32c
from ..reading.heap import Each
from .index import Groups, Index
from .layout import BLOCK_BYTES, GROUP_BLOCKS, HEADER_BYTES, USE_AT, Subject, Use, blocks_around, missing, subject_of
from .locks import RangeLock

log = logging.getLogger(__name__)

_FLIGHTS_AT, _PIN_AT = 2**48, 2**49
"""Where locks lie: far behind any data."""
_PIN_PATIENCE_S = 2.0
_CHECKED_BLOCKS = 256
_GROUP_BYTES = GROUP_BLOCKS * BLOCK_BYTES
_PIECE_BYTES = 256 * 1024
"""So much of a group is read at once, so that it still is in the processor's cache when it is summed up: that takes a
quarter less time than with 1 MiB, and far less than with all of it."""
_SHARED_STEPS = 8
"""Fewer are read sooner than another thread wakes up."""
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
        self._data_at = subject.data_at
        self._fd = fd
        self._index = Index(fd, subject)
        self._writing = threading.Lock()

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
        sums = self._index.sums(0, self.subject.blocks)
        held = sum(found is not None for found in sums) * BLOCK_BYTES
        is_short = bool(sums) and sums[-1] is not None
        return held - (-self.subject.size % BLOCK_BYTES if is_short else 0)

    def missing(self, start: int, end: int, gap_bytes: int = 0) -> list[tuple[int, int]]:
        """Ranges of bytes, made of whole blocks, that are not there of a range; near ones are taken together."""
        first, last = blocks_around(start, min(end, self.subject.size))
        runs = missing(self._index.sums(first, last), first, gap_bytes // BLOCK_BYTES)
        return [(begin * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.subject.size)) for begin, stop in runs]

    def whole(self, start: int, end: int) -> tuple[int, int] | None:
        """The whole blocks in a range of bytes, as a range; None if there are none."""
        end = min(end, self.subject.size)
        first = -(-start // BLOCK_BYTES) * BLOCK_BYTES
        stop = end if end == self.subject.size else end // BLOCK_BYTES * BLOCK_BYTES
        return (first, stop) if first < stop else None

    def read_into(self, start: int, into: memoryview, each: Each | None = None) -> bool:
        """Fill a buffer with bytes from `start` on, if all of them are there and are what was written.

        A block that is not is forgotten, so that it is fetched again.

        Args:
            each: runs many tasks at once; then cores share what is much.
        """
        if start >= self.subject.size:  # there is nothing to read
            return True
        end = start + len(into)
        groups = self._index.groups(*blocks_around(start, end))
        if groups is None:
            return False
        begins = [max(start, at) for at in range(start - start % _GROUP_BYTES, end, _GROUP_BYTES)]
        steps = list(pairwise([*begins, end]))
        are_right: list[bool] = []
        failed: list[OSError] = []

        def some(steps: Sequence[tuple[int, int]]) -> int:
            try:
                for at, until in steps:  # all of them: all that is wrong is to be found
                    step = into[at - start : until - start]
                    are_right.append(self._read_group(at, step, groups) or self._read_blocks(at, step, groups))
            except OSError as error:
                failed.append(error)
            return 0

        if each is None or len(steps) < _SHARED_STEPS:
            some(steps)
        else:
            share = -(-len(steps) // _cores())
            each([partial(some, steps[at : at + share]) for at in range(0, len(steps), share)])
        if failed:
            raise failed[0]
        return all(are_right)

    def write(self, start: int, data: memoryview) -> None:
        """Keep whole blocks: from the beginning of one to the end of one, or of the object. Raises OSError."""
        done = 0
        with self._writing:  # the system lets no two write to one file, and keeps a core busy while the second waits
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self._data_at + start + done)
        self._index.write(start // BLOCK_BYTES, data)

    def mapped(self) -> mmap.mmap:
        """The object's bytes as memory, shared with all who map it; what is written there stays one's own.

        It is not removed to make room for as long as the memory is in use. Nothing in it is to be believed before
        `unsound` was asked. Raises OSError.
        """
        memory = self.unpinned()
        self.pin_for(memory)
        return memory

    def unpinned(self) -> mmap.mmap:
        """The same memory, of an object that may be removed. Raises OSError."""
        return private(self._fd, self.subject.size, self._data_at)

    def pin_for(self, memory: mmap.mmap) -> None:
        """Let it not be removed to make room for as long as this memory of it is in use. Raises OSError."""
        pin = self.pin()
        try:
            if not pin.acquire(_PIN_PATIENCE_S):
                raise BlockingIOError(f"{self.path} is being removed")
        except BaseException:
            pin.close()
            raise
        weakref.finalize(memory, pin.close)

    def is_same_file(self, other: CachedObject) -> bool:
        """Whether what is written to one is there in the other."""
        return os.path.sameopenfile(self._fd, other._fd)

    def unsound(self, first: int, last: int, memory: memoryview) -> list[int]:
        """Blocks, of those from `first` to before `last`, that are not there, or not what was written.

        Those are forgotten, so that they are fetched again.

        Args:
            memory: of `mapped`, where they are looked at.
        """
        absent, wrong = self._index.compare(first, last, memory[first * BLOCK_BYTES : last * BLOCK_BYTES])
        self._distrust(wrong)
        return sorted([*absent, *wrong])

    def check(self) -> list[int]:
        """Read all blocks that are there; returns those whose bytes are not what was written, which are forgotten."""
        found: list[int] = []
        for first in range(0, self.subject.blocks, _CHECKED_BLOCKS):
            last = min(first + _CHECKED_BLOCKS, self.subject.blocks)
            begin, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.subject.size)
            data = os.pread(self._fd, stop - begin, self._data_at + begin)
            _, wrong = self._index.compare(first, last, memoryview(data))
            self._distrust(wrong)
            found += wrong
        return found

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

    def _read_group(self, start: int, into: memoryview, groups: Groups) -> bool:
        """Fill a buffer, if that takes a whole group whose sum is known, and right: nearly all of a large read is."""
        known = None if start % _GROUP_BYTES else groups.get(start // BLOCK_BYTES)
        if known is None or (len(into) < _GROUP_BYTES and start + len(into) < self.subject.size):
            return False
        fd, begin, found = self._fd, self._data_at + start, 0
        for at in range(0, len(into), _PIECE_BYTES):
            piece = into[at : at + _PIECE_BYTES]
            if os.preadv(fd, [piece], begin + at) != len(piece):
                return False
            found = crc32c(piece, found)
        return found == known

    def _read_blocks(self, start: int, into: memoryview, groups: Groups) -> bool:
        """See read_into; all of it should be there."""
        end = start + len(into)
        first, last = blocks_around(start, end)
        begin, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.subject.size)
        inner, until = self.whole(start, end) or (stop, stop)
        # Blocks are compared as a whole, so those that reach over the edges are read beside the buffer.
        before, after = bytearray(inner - begin), bytearray(stop - until)
        pieces = [memoryview(before), into[inner - start : until - start], memoryview(after)]
        if not self._read(begin, pieces):
            self._distrust(range(first, last))
            return False
        is_right = True
        for piece in filter(None, pieces):
            is_right = self._is_right(begin, piece, groups) and is_right
            begin += len(piece)
        if before:
            into[: inner - start] = pieces[0][start - first * BLOCK_BYTES :][: len(into)]
        if after:
            into[until - start :] = pieces[2][: end - until]
        return is_right

    def _read(self, start: int, pieces: Sequence[memoryview]) -> bool:
        """Fill buffers, one after another, from the file; False if it ends before."""
        wanted = sum(map(len, pieces))
        got = os.preadv(self._fd, pieces, self._data_at + start)
        while 0 < got < wanted:  # the system reads at most 2 GiB at once
            more = os.preadv(self._fd, _from(pieces, got), self._data_at + start + got)
            if not more:
                break
            got += more
        return got == wanted

    def _is_right(self, begin: int, data: memoryview, groups: Groups) -> bool:
        """Whether whole blocks, from this byte of the object on, are what was written."""
        first, last = blocks_around(begin, begin + len(data))
        absent, wrong = self._index.compare(first, last, data, groups)
        self._distrust(wrong)
        return not absent and not wrong

    def _distrust(self, blocks: Sequence[int]) -> None:
        """Forget blocks that are not what they should be."""
        for block in blocks:
            self._index.forget(block)
        if blocks:
            log.warning(
                "%s: %d blocks of the cached %s, from %d on, were not what had been written; they are fetched again",
                self.path, len(blocks), self.subject.path, blocks[0],
            )  # fmt: skip


@cache
def _cores() -> int:
    return len(os.sched_getaffinity(0))


def private(fd: int, length: int, at: int = 0) -> mmap.mmap:
    """A part of a file as memory; what is written there is not written to the file, and seen by nobody else."""
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    return mmap.mmap(fd, length, flags, mmap.PROT_READ | mmap.PROT_WRITE, offset=at)


def _from(buffers: Sequence[memoryview], skip: int) -> list[memoryview]:
    """What follows the first so many bytes of some buffers."""
    left: list[memoryview] = []
    for view in buffers:
        left.append(view[min(skip, len(view)) :])
        skip = max(0, skip - len(view))
    return left
