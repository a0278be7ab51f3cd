"""What a cached object's blocks sum up to, in its file; and whether bytes are what was written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ..checksums import Part, crc32c
from .layout import BLOCK_BYTES, ENTRY_BYTES, GROUP_BLOCKS, Subject, by_groups, entries, sums_of

Groups = Mapping[int, int | None]
"""The sums of groups, by their first block; None for one that is not known."""


class Index:
    """The sums in one file. Any thread may use it, and other processes use the same file.

    Args:
        fd: of the file, open for reading and writing.
    """

    def __init__(self, fd: int, subject: Subject) -> None:
        self._fd = fd
        self._subject = subject
        self._begun: dict[int, tuple[int, int]] = {}
        """Groups of which only the first blocks were written here: up to which one, and what they sum up to."""

    def sums(self, first: int, last: int) -> list[int | None]:
        """The sums of blocks from `first` to before `last`; None for one that is not there."""
        return self._read(self._subject.block_at(first), last - first)

    def groups(self, first: int, last: int) -> Groups | None:
        """What the groups among blocks sum up to; None if one of the blocks is not there.

        That is by what is written; whether their bytes are right is another matter.
        """
        groups = self._groups(first, last)
        are_there = all(
            (is_group and groups.get(begin) is not None) or None not in self.sums(begin, stop)
            for begin, stop, is_group in self._runs(first, last)
        )
        return groups if are_there else None

    def write(self, first: int, data: memoryview) -> None:
        """Blocks from `first` on are there, as these bytes, the last of them whole or the object's end."""
        sums = [crc32c(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
        os.pwrite(self._fd, entries(sums), self._subject.block_at(first))
        for begin, stop, _ in self._runs(first, first + len(sums)):
            self._sum_up(begin, stop, data[(begin - first) * BLOCK_BYTES : (stop - first) * BLOCK_BYTES])

    def forget(self, block: int) -> None:
        """A block is not there."""
        os.pwrite(self._fd, bytes(ENTRY_BYTES), self._subject.block_at(block))

    def compare(
        self, first: int, last: int, data: memoryview, groups: Groups | None = None
    ) -> tuple[list[int], list[int]]:
        """Which blocks from `first` to before `last` are not there, and which are but not as they were written.

        Args:
            data: the bytes of all of them.
            groups: what is known already of these groups, and perhaps of others.
        """
        absent: list[int] = []
        wrong: list[int] = []
        groups = self._groups(first, last) if groups is None else groups
        for begin, stop, is_group in self._runs(first, last):
            run = data[(begin - first) * BLOCK_BYTES : (stop - first) * BLOCK_BYTES]
            known = groups.get(begin) if is_group else None
            if known is not None and crc32c(run) == known:
                continue
            is_right = True
            for place, crc in enumerate(self.sums(begin, stop)):
                if crc is None:
                    absent.append(begin + place)
                elif crc32c(run[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]) != crc:
                    wrong.append(begin + place)
                else:
                    continue
                is_right = False
            if is_group and is_right:  # its blocks have come one after another
                self._learn(begin, crc32c(run))
        return absent, wrong

    # -- inside ------------------------------------------------------------------------------------------

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int, bool]]:
        return by_groups(first, last, self._subject.blocks)

    def _groups(self, first: int, last: int) -> Groups:
        """Of those that lie within some blocks."""
        begins = [begin for begin, _, is_group in self._runs(first, last) if is_group]
        if not begins:
            return {}
        at = self._subject.group_at(begins[0] // GROUP_BLOCKS)
        return dict(zip(begins, self._read(at, len(begins)), strict=True))

    def _read(self, at: int, count: int) -> list[int | None]:
        wanted = count * ENTRY_BYTES
        return sums_of(os.pread(self._fd, wanted, at).ljust(wanted, b"\0"))  # somebody may have cut the file

    def _sum_up(self, first: int, last: int, data: Part) -> None:
        """Some blocks of one group are written; once they are its last, after all that are before them, it is known."""
        group, before = first // GROUP_BLOCKS, 0
        if first % GROUP_BLOCKS:
            upto, before = self._begun.pop(group, (-1, 0))
            if upto != first:
                return
        found = crc32c(data, before)
        if last % GROUP_BLOCKS == 0 or last == self._subject.blocks:
            self._begun.pop(group, None)
            self._learn(group * GROUP_BLOCKS, found)
        else:
            self._begun[group] = last, found

    def _learn(self, begin: int, found: int) -> None:
        """The group that begins with this block sums up like this."""
        os.pwrite(self._fd, entries([found]), self._subject.group_at(begin // GROUP_BLOCKS))
