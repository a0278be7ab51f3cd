"""Reading an object through the cache: what is there is taken from it, what is not is fetched once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...profiles.access import MIB
from ..errors import StoreError
from ..reading.buffers import Buffers
from ..reading.heap import Each
from ..reading.origin import Abandoned, Progress, Source
from .cached import CachedObject
from .folder import CacheFolder
from .layout import BLOCK_BYTES, blocks_around

_PATIENCE_S = 10.0
"""So long somebody else may fetch a range without ending; then it is fetched here too, and not kept."""
_TRIES = 3
"""Blocks can leave the cache, or turn out wrong, while the others are being fetched."""
_KEPT_BYTES = MIB // 2
"""What has come is kept piece by piece, as long as it is in the processor's cache: it is summed up and copied then, and
while the next piece comes."""
_LEAST_PIECE = 256 * 1024
"""So much is fetched at once even when the memory's budget has nothing left."""

Arrived = Callable[[int, memoryview, bool], None]
"""Told of bytes that came: where they begin, what they are, and whether they are kept."""


class CachedSource:
    """One content of an object, read through the cache. Any thread may ask.

    Args:
        behind: where its bytes come from.
        gap_bytes: what is there between two ranges that are not is fetched with them, up to so much.
    """

    keeps = True

    def __init__(
        self, behind: Source, cached: CachedObject, folder: CacheFolder, buffers: Buffers, gap_bytes: int
    ) -> None:
        self.path = behind.path
        self.version = behind.version
        self.behind = behind
        self.cached = cached
        self._folder = folder
        self._buffers = buffers
        self._gap_bytes = gap_bytes

    def at_hand(self, start: int, into: memoryview, each: Each | None = None) -> bool:
        """Fill a buffer from the cache, if all of it is there."""
        return self.cached.read_into(start, into, each)

    def keep(self, start: int, data: memoryview, *, has_room: bool = False) -> None:
        """Keep bytes that have come already, as far as they are whole blocks.

        Args:
            has_room: room was made for them.
        """
        whole = self.cached.whole(start, start + len(data))
        if whole is not None and self.cached.missing(*whole):
            self._folder.keep(self.cached, whole[0], data[whole[0] - start : whole[1] - start], has_room=has_room)

    def read_into(self, start: int, into: memoryview, progress: Progress) -> int:
        """Fill a buffer; see Source. Returns how many bytes came from the store."""
        fetched = 0
        for _ in range(_TRIES):
            if self.cached.read_into(start, into):
                progress(len(into))
                return fetched
            got, is_whole = self._fill(start, into, progress)
            fetched += got
            if is_whole:
                return fetched
        return fetched + self.behind.read_into(start, into, progress)

    def read_ahead(self, start: int, into: memoryview, progress: Progress) -> tuple[int, bool]:
        """See Source: what another process fetches at the time is not copied from its file before somebody wants it."""
        end = start + len(into)
        if runs := self.cached.missing(start, end):
            flight = self.cached.flight(runs[0][0], runs[-1][1])
            try:
                if not flight.acquire():
                    if not flight.acquire(_PATIENCE_S):
                        return self.behind.read_into(start, into, progress), True
                    if not self.cached.missing(start, end):
                        return 0, False
            finally:
                flight.close()
        return self.read_into(start, into, progress), True

    def has_room(self, more: int) -> bool:
        """Whether there is room for so much more without anything leaving."""
        return self._folder.has_room(more)

    def make_room(self, more: int, coming: Mapping[str, int]) -> bool:
        """See CacheFolder.make_room."""
        return self._folder.make_room(self.cached, more, coming)

    def drop_empty(self) -> None:
        """See CacheFolder.drop_empty."""
        self._folder.drop_empty(self.cached)

    def bring(
        self,
        start: int,
        end: int,
        progress: Progress,
        *,
        patience_s: float = 0.0,
        arrived: Arrived | None = None,
        has_room: bool = False,
    ) -> int:
        """Fetch the blocks of a range that are not there, without reading them; returns how many bytes came.

        Args:
            patience_s: for how long somebody else may be at it; then it is left to them.
            arrived: told of bytes that came.
            has_room: room was made for them.
        """
        first, last = blocks_around(start, end)
        begin, stop = first * BLOCK_BYTES, min(last * BLOCK_BYTES, self.cached.subject.size)
        flight = self.cached.flight(begin, stop)
        came = 0
        try:
            if flight.acquire(patience_s):
                for at, until in self.cached.missing(begin, stop, self._gap_bytes):
                    came += self._bring_missing(
                        at, until, lambda more, before=came: progress(before + more), arrived, has_room
                    )
        finally:
            flight.close()
        return came

    def _bring_missing(self, start: int, end: int, progress: Progress, arrived: Arrived | None, has_room: bool) -> int:
        length = end - start
        while (buffer := self._buffers.take(length)) is None and length > _LEAST_PIECE:
            length = max(_LEAST_PIECE, length // 2 // BLOCK_BYTES * BLOCK_BYTES)
        room = memoryview(bytearray(length) if buffer is None else buffer)
        came = 0
        try:
            for at in range(start, end, length):
                piece = room[: min(length, end - at)]
                came += self._fetch_and_keep(
                    at, piece, lambda more, before=came: progress(before + more), arrived, has_room
                )
        finally:
            room.release()
            if buffer is not None:
                self._buffers.give_back(buffer)
        return came

    def _fill(self, start: int, into: memoryview, progress: Progress) -> tuple[int, bool]:
        """Fetch what is missing and take the rest from the cache; False if that was not what had been written."""
        end, at, fetched = start + len(into), start, 0
        for begin, stop in [*self.cached.missing(start, end, self._gap_bytes), (end, end)]:
            if at < begin and not self.cached.read_into(at, into[at - start : begin - start]):
                return fetched, False
            told, at, until = max(at, begin) - start, max(at, begin), min(stop, end)
            progress(told)
            if at < until:
                wanted = into[told : until - start]
                fetched += self._bring(begin, stop, at, wanted, lambda came, told=told: progress(told + came))
                at = until
        return fetched, True

    def _bring(self, begin: int, stop: int, at: int, into: memoryview, progress: Progress) -> int:
        """Fetch whole blocks from `begin` to `stop`, of which `into` wants those from `at` on, unless others do."""
        flight = self.cached.flight(begin, stop)
        try:
            if not flight.acquire(_PATIENCE_S):
                return self.behind.read_into(at, into, progress)
            if self.cached.missing(begin, stop, self._gap_bytes) == [(begin, stop)]:
                return self._fetch(begin, stop, at, into, progress)
        finally:
            flight.close()
        # Somebody has fetched some of it meanwhile.
        got, is_whole = self._fill(at, into, progress)
        return got if is_whole else got + self.behind.read_into(at, into, progress)

    def _fetch(self, begin: int, stop: int, at: int, into: memoryview, progress: Progress) -> int:
        """As _bring, while nobody else does."""
        if at == begin and len(into) == stop - begin:
            return self._fetch_and_keep(begin, into, progress)
        buffer = self._buffers.take(stop - begin)
        if buffer is None:
            return self.behind.read_into(at, into, progress)
        try:
            whole = memoryview(buffer)[: stop - begin]
            first, told = at - begin, 0

            def came(so_far: int) -> None:
                nonlocal told  # whoever waits for the first bytes gets them before the last have come
                until = min(so_far - first, len(into))
                if until > told:
                    into[told:until] = whole[first + told : first + until]
                    told = until
                progress(told)

            got = self._fetch_and_keep(begin, whole, came)
            came(len(whole))
            return got
        finally:
            self._buffers.give_back(buffer)

    def _fetch_and_keep(
        self, begin: int, into: memoryview, progress: Progress, arrived: Arrived | None = None, has_room: bool = False
    ) -> int:
        """Fetch whole blocks into memory; returns how many bytes came from the store.

        What comes is kept, also if the rest is not wanted any more, or can't be had. Of the last block is told once all
        of them are: a process may end as soon as it has read what it wanted, and what it had not kept by then would be
        fetched again by the next one.
        """
        kept = had = 0
        last_block = (len(into) - 1) // BLOCK_BYTES * BLOCK_BYTES

        def keep(until: int) -> None:
            nonlocal kept
            piece, at = into[kept:until], begin + kept
            is_kept = self._folder.keep(self.cached, at, piece, has_room=has_room)
            if arrived is not None:
                arrived(at, piece, is_kept)
            kept = until

        def came(so_far: int) -> None:
            nonlocal had
            had = so_far
            progress(min(so_far, last_block))
            whole = (begin + so_far) // _KEPT_BYTES * _KEPT_BYTES - begin
            if kept < whole < len(into):
                keep(whole)

        try:
            got = self.behind.read_into(begin, into, came)
        except (Abandoned, StoreError):
            if kept < (whole := had // BLOCK_BYTES * BLOCK_BYTES):
                keep(whole)
            raise
        keep(len(into))
        progress(len(into))
        return got
