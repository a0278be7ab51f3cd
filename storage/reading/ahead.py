"""How much to fetch before it is asked for. Pure.

What is fetched ahead stays in proportion to what was read in order so far, and grows with its square from 64 KiB on. So
a reader of everything has enough connections busy after one read of 1 MiB (256 MiB are on their way then, or a large
file waits for its second answer with the line idle), and one who reads a header and leaves has cost little more than
the header. Who has jumped about gets less until more was read in order. Who asks for more than half of an object by one
read, from its beginning, will want the rest.

Who jumps, and reads on from there each time (the members of an archive: a header, a name, the data), does so again: as
much as that was lately comes with the first of these reads, instead of by a request for each.
"""

from __future__ import annotations

from collections import deque

from ...profiles.access import KIB, MIB, Access
from .ranges import EDGE_BYTES

_TIMES = 16
_LEAST_READ = 32 * KIB
_FORGIVEN = 2
"""After more jumps than this, reading in order has to prove itself for longer before anything is fetched ahead."""
_RUNS = 8
_ENOUGH_RUNS = 2


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
        self._run_start = self._run_reads = 0
        self._runs: deque[int] = deque(maxlen=_RUNS)
        """How much was read in order from each of the last jumps on; 0: by one read, so that none of it was ahead."""

    def under(self, access: Access) -> ReadAhead:
        """The same reader of the same object, by other values."""
        other = ReadAhead(access, self._size)
        other._next, other._in_order, other._jumps = self._next, self._in_order, self._jumps
        other._run_start, other._run_reads, other._runs = self._run_start, self._run_reads, self._runs.copy()
        return other

    def read(self, start: int, length: int) -> int:
        """A read of so many bytes comes at `start`; returns up to where to fetch, at least its own end."""
        end = min(start + length, self._size)
        if 0 <= start - self._next <= self._access.gap_bytes:
            self._in_order += end - self._next
            self._run_reads += 1
        else:
            self._runs.append(self._next - self._run_start if self._run_reads > 1 else 0)
            self._run_start, self._run_reads = start, 1
            self._jumps += 1
            self._in_order = 0
        self._next = end
        wants_most = start <= self._access.gap_bytes and 2 * length > self._size >= MIB
        # To the end of a block of the cache: who fetches what follows would wait for a block that both want.
        ahead = (end + self._ahead(wants_most)) // EDGE_BYTES * EDGE_BYTES
        return min(self._size, max(end, ahead, start + _LEAST_READ, self._run_start + self._run_bytes()))

    @property
    def is_random(self) -> bool:
        """Whether reads jump about: then nothing is worth keeping for the next."""
        return self._jumps > _FORGIVEN and self._in_order == 0 and not self._run_bytes()

    def _run_bytes(self) -> int:
        """How much will likely be read from a jump on; no more than is moved in the time of one more request."""
        last = list(self._runs)[-_ENOUGH_RUNS:]
        if self._access.read_ahead == "none" or len(last) < _ENOUGH_RUNS or 0 in last:
            return 0
        return min(max(self._runs), self._access.gap_bytes)

    def _ahead(self, wants_most: bool) -> int:
        access = self._access
        if access.read_ahead == "none":
            return 0
        if access.read_ahead == "whole" or wants_most:
            return access.read_ahead_bytes
        has_jumped = self._jumps > _FORGIVEN
        if has_jumped and self._in_order < 4 * access.gap_bytes:
            return 0
        square_from = MIB if has_jumped else 64 * KIB
        return min(self._in_order * _TIMES * max(square_from, self._in_order) // square_from, access.read_ahead_bytes)
