"""Reading an object through the cache: what is there is taken from it, what is not is fetched once and kept."""

from __future__ import annotations

from ..reading.buffers import Buffers
from ..reading.origin import Progress, Source
from .cached import CachedObject
from .folder import CacheFolder

_PATIENCE_S = 10.0
"""So long somebody else may fetch a range without ending; then it is fetched here too, and not kept."""
_TRIES = 3
"""Blocks can leave the cache, or turn out wrong, while the others are being fetched."""


class CachedSource:
    """One content of an object, read through the cache. Any thread may ask.

    Args:
        behind: where its bytes come from.
        gap_bytes: what is there between two ranges that are not is fetched with them, up to so much.
    """

    def __init__(
        self, behind: Source, cached: CachedObject, folder: CacheFolder, buffers: Buffers, gap_bytes: int
    ) -> None:
        self.path = behind.path
        self.version = behind.version
        self._behind = behind
        self._cached = cached
        self._folder = folder
        self._buffers = buffers
        self._gap_bytes = gap_bytes

    def at_hand(self, start: int, into: memoryview) -> bool:
        """Fill a buffer from the cache, if all of it is there."""
        return self._cached.read_into(start, into)

    def keep(self, start: int, data: memoryview) -> None:
        """Keep bytes that have come already, as far as they are whole blocks."""
        whole = self._cached.whole(start, start + len(data))
        if whole is not None and self._cached.missing(*whole):
            self._folder.keep(self._cached, whole[0], data[whole[0] - start : whole[1] - start])

    def read_into(self, start: int, into: memoryview, progress: Progress) -> int:
        """Fill a buffer; see Source. Returns how many bytes came from the store."""
        fetched = 0
        for _ in range(_TRIES):
            if self._cached.read_into(start, into):
                progress(len(into))
                return fetched
            got, is_whole = self._fill(start, into, progress)
            fetched += got
            if is_whole:
                return fetched
        return fetched + self._behind.read_into(start, into, progress)

    def _fill(self, start: int, into: memoryview, progress: Progress) -> tuple[int, bool]:
        """Fetch what is missing and take the rest from the cache; False if that was not what had been written."""
        end, at, fetched = start + len(into), start, 0
        for begin, stop in [*self._cached.missing(start, end, self._gap_bytes), (end, end)]:
            if at < begin and not self._cached.read_into(at, into[at - start : begin - start]):
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
        flight = self._cached.flight(begin, stop)
        try:
            if not flight.acquire(_PATIENCE_S):
                return self._behind.read_into(at, into, progress)
            if self._cached.missing(begin, stop, self._gap_bytes) == [(begin, stop)]:
                return self._fetch(begin, stop, at, into, progress)
        finally:
            flight.close()
        # Somebody has fetched some of it meanwhile.
        got, is_whole = self._fill(at, into, progress)
        return got if is_whole else got + self._behind.read_into(at, into, progress)

    def _fetch(self, begin: int, stop: int, at: int, into: memoryview, progress: Progress) -> int:
        """As _bring, while nobody else does."""
        if at == begin and len(into) == stop - begin:
            got = self._behind.read_into(begin, into, progress)
            self._folder.keep(self._cached, begin, into)
            return got
        buffer = self._buffers.take(stop - begin)
        if buffer is None:
            return self._behind.read_into(at, into, progress)
        try:
            whole = memoryview(buffer)[: stop - begin]
            # What the reader wants has not come yet, but it may not want it any more.
            got = self._behind.read_into(begin, whole, lambda _: progress(0))
            into[:] = whole[at - begin : at - begin + len(into)]
            progress(len(into))
            self._folder.keep(self._cached, begin, whole)
            return got
        finally:
            self._buffers.give_back(buffer)
