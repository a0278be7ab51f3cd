"""An object's bytes as memory: shared with the other processes of the machine, as far as its cache has room."""

from __future__ import annotations

import logging
import mmap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ...profiles.access import MIB, Access
from ..caching.cached import private
from ..caching.layout import BLOCK_BYTES, blocks_around
from ..caching.through import CachedSource
from ..reading.fetching import Fetcher
from ..reading.heap import fresh
from ..reading.origin import Abandoned, Source
from ..reading.ranges import coalesced, parts
from .looking import Look, Run, Sound

log = logging.getLogger(__name__)

Bytes = Callable[[int, int], None]
"""Told how many bytes are at hand by now, and how many were asked for; by one thread at a time."""

_PART_BYTES = 8 * MIB
"""Four times as large as pays for the first byte alone, since a request costs 0.7 ms of a core here: 1 GiB takes 1.2 s
by these and 1.5 by parts of 2 MiB. Parts of 16 MiB gain no more, and hold twice the memory."""
_PATIENCES_S = (0.0, 30.0, 30.0)
"""What others are fetching is left for later, and then waited for; in the end it is fetched here too."""


class ObjectMemory:
    """One content of an object. What was brought is there, and is what the store has sent.

    Memory of the cache is shared by all processes, and each block of it was fetched here, or checked against its
    CRC32C, when it was brought. What the cache has no room for lies in this process's own memory. Writing to it changes
    nothing but one's own memory.

    A cache file that somebody else cuts short ends the process (SIGBUS), as with any mapped file.

    Args:
        head: its first bytes, as far as they came already.
        file: where it lies on this machine, if it does; then that is its memory, as it is.
        look: what was found meanwhile of what is here; it counts if that is the same content.

    Attributes:
        memory: as long as the object; only what was brought means something.
        own_bytes: what of it is not shared.
    """

    def __init__(
        self,
        source: Source,
        head: bytes,
        fetcher: Fetcher,
        access: Access,
        *,
        file: Path | None = None,
        look: Look | None = None,
    ) -> None:
        self.path = source.path
        self.size = source.version.size
        self.own_bytes = 0
        self._fetcher = fetcher
        self._access = access
        self._source = source if isinstance(source, CachedSource) else None
        self._behind = source.behind if isinstance(source, CachedSource) else source
        self._sound = Sound(-(-self.size // BLOCK_BYTES), are_all=file is not None)
        if file is not None and self.size:
            with file.open("rb") as opened:
                self.memory = private(opened.fileno(), self.size)
        else:
            self.memory = self._shared(look) if self._source is not None else self._own()
        self._view = memoryview(self.memory)
        self._lock = threading.Lock()
        if head and self._source is None and file is None:
            self._spill(0, memoryview(head)[: len(head) if len(head) == self.size else _whole(len(head))])

    def bring(self, ranges: Sequence[tuple[int, int]], progress: Bytes | None = None) -> None:
        """Make ranges (start, end) be there.

        Raises:
            ObjectChanged, StoreUnavailable: what the first request that failed raised; the others have ended by then.
        """
        wanted = coalesced(ranges, gap_bytes=self._access.gap_bytes, most_bytes=self.size)
        spans = [blocks_around(each.start, each.end) for each in wanted]
        left = self._unsound(spans)
        told = _Told(progress, self._bytes(spans))
        told.begin(self._bytes(left))
        if self._source is not None:
            for patience_s in _PATIENCES_S:
                if not left:
                    break
                self._each(left, told, lambda start, end, tell, s=patience_s: self._share(start, end, tell, s))
                left = self._unsound(left)
                told.begin(self._bytes(left))
        if left:
            self._each(left, told, self._fetch)
        told.end()
        if self.own_bytes and self._access.cache != "none":
            log.warning(
                "%s: %d bytes are in this process's own memory; the cache had no place for them.",
                self.path, self.own_bytes,
            )  # fmt: skip

    # -- inside ------------------------------------------------------------------------------------------

    def _shared(self, look: Look | None) -> mmap.mmap:
        assert self._source is not None
        cached = self._source.cached
        try:
            if look is None or not cached.is_same_file(look.cached):
                return cached.mapped()
            cached.pin_for(look.memory)
        except OSError as error:
            log.warning("%s can't be shared with other processes: %s", self.path, error)
            self._source = None
            return self._own()
        self._sound = look.sound
        return look.memory

    def _own(self) -> mmap.mmap:
        return fresh(max(1, self.size))

    def _unsound(self, spans: Sequence[Run]) -> list[Run]:
        """Runs of blocks, of those in some runs, that are not known to be right after having looked."""
        runs = [run for first, last in spans for run in self._sound.runs(first, last)]
        return runs if self._source is None else self._sound.look(self._source.cached, self._view, runs)

    def _each(
        self,
        spans: Sequence[Run],
        told: _Told,
        act: Callable[[int, int, Callable[[int], None]], int],
    ) -> None:
        """Act on parts of runs of blocks, many at once."""
        part_bytes = self._part_bytes(spans)
        pieces = [
            blocks_around(*piece)
            for first, last in spans
            for piece in parts(first * BLOCK_BYTES, last * BLOCK_BYTES, part_bytes)
        ]
        failed: list[Exception] = []

        def one(first: int, last: int) -> int:
            came = 0

            def tell(now: int) -> None:
                nonlocal came
                if failed:
                    raise Abandoned
                told.now(now - came)
                came = now

            try:
                return 0 if failed else act(first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.size), tell)
            except Abandoned:
                pass
            except Exception as error:  # noqa: BLE001 - raised below
                failed.append(error)
            return came

        self._fetcher.each([lambda piece=piece: one(*piece) for piece in pieces])
        if failed:
            raise failed[0]

    def _part_bytes(self, spans: Sequence[Run]) -> int:
        """So large that all connections have something to do, unless that would make parts small."""
        share = self._bytes(spans) // self._access.connections
        return max(min(share, self._access.part_bytes, _PART_BYTES) // MIB * MIB, MIB)

    def _share(self, start: int, end: int, tell: Callable[[int], None], patience_s: float) -> int:
        assert self._source is not None
        return self._source.bring(start, end, tell, patience_s=patience_s, arrived=self._arrived)

    def _fetch(self, start: int, end: int, tell: Callable[[int], None]) -> int:
        came = self._behind.read_into(start, self._view[start:end], tell)
        self._is_own(start, end)
        return came

    def _arrived(self, start: int, data: memoryview, is_kept: bool) -> None:
        if not is_kept:
            self._spill(start, data)
            return
        # What was just written from what the store sent needs no look.
        self._sound.mark(*blocks_around(start, start + len(data)))

    def _spill(self, start: int, data: memoryview) -> None:
        self._view[start : start + len(data)] = data
        self._is_own(start, start + len(data))

    def _is_own(self, start: int, end: int) -> None:
        with self._lock:
            self.own_bytes += end - start
        self._sound.mark(*blocks_around(start, end))

    def _bytes(self, spans: Sequence[Run]) -> int:
        return sum(min(last * BLOCK_BYTES, self.size) - first * BLOCK_BYTES for first, last in spans)


class _Told:
    """Adds up what has come, for whoever watches."""

    def __init__(self, progress: Bytes | None, all_bytes: int) -> None:
        self._progress = progress
        self._all_bytes = all_bytes
        self._lock = threading.Lock()
        self._at_hand = 0
        self._most = -1

    def begin(self, left_bytes: int) -> None:
        """So much is still to come."""
        self._at_hand = self._all_bytes - left_bytes
        self.now(0)

    def now(self, more: int) -> None:
        """More bytes have come."""
        if self._progress is None:
            return
        with self._lock:
            self._at_hand += more
            if self._at_hand > self._most:  # what has to be fetched again counts once
                self._most = min(self._at_hand, self._all_bytes)
                self._progress(self._most, self._all_bytes)

    def end(self) -> None:
        """All is there."""
        self.begin(0)


def _whole(length: int) -> int:
    return length // BLOCK_BYTES * BLOCK_BYTES
