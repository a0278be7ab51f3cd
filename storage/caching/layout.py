"""What a cached object's file looks like. Pure.

    header      8 KiB: what object it is, and how it was used
    blocks      8 bytes for each block: its CRC32C, and a mark once it is there
    groups      8 bytes for each 64 blocks: the CRC32C of all, and a mark once it is known
    data        the object's bytes at their own places; sparse

A block counts once its mark is written, which happens after its bytes; and it is handed out only if they sum up to its
CRC32C. So nobody takes a block for whole that a killed process has begun, nor one whose bits have flipped.

A group's sum says what the object's bytes there are, not whether they are there. Bytes that sum up to it are right
whatever the blocks' entries say; if they don't, the blocks are looked at one by one. So it needs no care when blocks
come and go, and saves 63 of 64 comparisons where much is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import orjson

from ..checksums import crc32c

BLOCK_BYTES = 16 * 1024
"""Small, since whole blocks are fetched: a read of 64 KiB at random costs 80 KiB at most."""
HEADER_BYTES = 8192
_PAGE_BYTES = 64 * 1024
"""Data begins with a page, to be mapped, whichever size pages have (4 KiB, or 64 on some machines with ARM). What is
written there is kept by the system in larger pieces, and read 2 % faster. Where huge pages could begin it is no faster
still, and a virtual machine that is short of them takes longer to write."""
USE_AT = HEADER_BYTES - 64

_MAGIC = b"HOLDSHORT CACHE3"
_PREFIX = struct.Struct("<16sII")
_USE = struct.Struct("<dddQ")
_ENTRY = struct.Struct("<II")
_MARK = 0x5EA1ED01
GROUP_BLOCKS = 64
ENTRY_BYTES = _ENTRY.size


@dataclass(frozen=True, slots=True)
class Subject:
    """Which content of which object a file is for.

    Attributes:
        store: what tells its store from others; without any secret.
        path: of the object, as its file system names it.
        tag: the store's name for this content, see reading.origin.Version.
    """

    store: str
    path: str
    size: int
    tag: str

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return -(-self.size // BLOCK_BYTES)

    @property
    def groups(self) -> int:
        """How many groups of blocks it has; the last may be a smaller one."""
        return -(-self.blocks // GROUP_BLOCKS)

    @property
    def data_at(self) -> int:
        """Where its bytes begin in the file."""
        return -(-(HEADER_BYTES + (self.blocks + self.groups) * ENTRY_BYTES) // _PAGE_BYTES) * _PAGE_BYTES

    def block_at(self, block: int) -> int:
        """Where a block's entry lies in the file."""
        return HEADER_BYTES + block * ENTRY_BYTES

    def group_at(self, group: int) -> int:
        """Where a group's entry lies in the file."""
        return HEADER_BYTES + (self.blocks + group) * ENTRY_BYTES

    @property
    def file_bytes(self) -> int:
        """How long the file is, holes included."""
        return self.data_at + self.size

    def header(self) -> bytes:
        """The first part of the file. Raises ValueError if its path is too long for one."""
        about = orjson.dumps(asdict(self))
        if _PREFIX.size + len(about) > USE_AT:
            raise ValueError(f"the name is too long to be cached: {self.path[:100]}…")
        found = _PREFIX.pack(_MAGIC, crc32c(about), len(about)) + about
        return found.ljust(HEADER_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class Use:
    """How a cached object was used, by all processes.

    Attributes:
        last_s: when it was opened last, in seconds since the epoch.
        interval_s: the longest time between two uses lately; 0.0 as long as there was only one.
        opens: how often it was opened.
    """

    last_s: float
    interval_s: float = 0.0
    opens: int = 1

    def again(self, now_s: float) -> Use:
        """It is opened once more. Openings close together count as one use: workers of a loader, ranks of a job."""
        if not self.opens:  # it was fetched ahead of its first use
            return Use(now_s)
        interval_s = max(0.0, now_s - self.last_s)
        return Use(now_s, max(interval_s, self.interval_s * 0.9), self.opens + 1)

    def packed(self) -> bytes:
        return _USE.pack(self.last_s, self.interval_s, 0.0, self.opens)


def subject_of(header: bytes) -> tuple[Subject, Use] | None:
    """What a header says; None if it is not one of ours, or not whole."""
    if len(header) < HEADER_BYTES:
        return None
    magic, crc, length = _PREFIX.unpack_from(header)
    about = header[_PREFIX.size : _PREFIX.size + length]
    if magic != _MAGIC or crc32c(about) != crc:
        return None
    last_s, interval_s, _, opens = _USE.unpack_from(header, USE_AT)
    return Subject(**orjson.loads(about)), Use(last_s, interval_s, opens)


def entries(sums: list[int]) -> bytes:
    """The entries of blocks that are there, or groups that are known, with these sums."""
    return b"".join(_ENTRY.pack(crc, _MARK) for crc in sums)


def sums_of(entries: bytes) -> list[int | None]:
    """The sums of blocks or groups; None for one that is not there."""
    words = struct.unpack(f"<{len(entries) // 4}I", entries)
    sums, marks = words[::2], words[1::2]
    there = marks.count(_MARK)  # nearly always all or none
    if there == len(marks):
        return list(sums)
    if not there:
        return [None] * len(marks)
    return [crc if mark == _MARK else None for crc, mark in zip(sums, marks, strict=True)]


def by_groups(first: int, last: int, blocks: int) -> Iterator[tuple[int, int, bool]]:
    """Runs that make up some blocks and end where groups do: (first, one after the last, whether it is a whole group).

    Args:
        first, last: from which block, to before which.
        blocks: how many the object has.
    """
    while first < last:
        stop = min((first // GROUP_BLOCKS + 1) * GROUP_BLOCKS, last)
        yield first, stop, first % GROUP_BLOCKS == 0 and (stop % GROUP_BLOCKS == 0 or stop == blocks)
        first = stop


def blocks_around(start: int, end: int) -> tuple[int, int]:
    """The first block of a range of bytes, and the one after its last."""
    return start // BLOCK_BYTES, -(-end // BLOCK_BYTES)


def missing(sums: list[int | None], first: int, gap_blocks: int) -> Iterator[tuple[int, int]]:
    """Runs of blocks that are not there, (first, one after the last); those with no more than a gap between are one."""
    absent = sums.count(None)  # nearly always all or none
    if not absent:
        return
    if absent == len(sums):
        yield first, first + len(sums)
        return
    begin = end = -1
    for place, found in enumerate(sums, first):
        if found is not None:
            continue
        if begin >= 0 and place - end > gap_blocks:
            yield begin, end
            begin = -1
        if begin < 0:
            begin = place
        end = place + 1
    if begin >= 0:
        yield begin, end
