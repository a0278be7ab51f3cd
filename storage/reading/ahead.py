"""How much to fetch before it is asked for. Pure.

What is fetched ahead stays in proportion to what was read in order so far, and grows with its square from 1 MiB on. So
a reader of everything has all of its connections busy after four reads of 1 MiB, and one who reads a header and leaves
has cost little more than the header.
"""

from __future__ import annotations

from ...profiles.access import KIB, MIB, Access

_TIMES = 16
_LEAST_READ = 32 * KIB
_FORGIVEN = 2
"""After more jumps than this, reading in order has to prove itself for longer before anything is fetched ahead."""


class ReadAhead:
    """Follows the reads of one open file.

    Args:
        size: of the object, in bytes.
    """

    def __init__(self, access: Access, size: int) -> None:
        self._access = access
        self._size = size
        self._next = 0
        self._in_order = 0
        self._jumps = 0

    def under(self, access: Access) -> ReadAhead:
        """The same reader of the same object, by other values."""
        other = ReadAhead(access, self._size)
        other._next, other._in_order, other._jumps = self._next, self._in_order, self._jumps
        return other

    def read(self, start: int, length: int) -> int:
        """A read of so many bytes comes at `start`; returns up to where to fetch, at least its own end."""
        end = min(start + length, self._size)
        if 0 <= start - self._next <= self._access.gap_bytes:
            self._in_order += end - self._next
        else:
            self._jumps += 1
            self._in_order = 0
        self._next = end
        return min(self._size, max(end + self._ahead(), min(start + _LEAST_READ, self._size)))

    @property
    def is_random(self) -> bool:
        """Whether reads jump about: then nothing is worth keeping for the next."""
        return self._jumps > _FORGIVEN and self._in_order == 0

    def _ahead(self) -> int:
        access = self._access
        if access.read_ahead == "none":
            return 0
        if access.read_ahead == "whole":
            return access.read_ahead_bytes
        if self._jumps > _FORGIVEN and self._in_order < 4 * access.gap_bytes:
            return 0
        return min(self._in_order * _TIMES * max(MIB, self._in_order) // MIB, access.read_ahead_bytes)
