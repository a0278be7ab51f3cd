"""What one open file has fetched ahead: parts in order, read while they still come in."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from functools import partial

from ...profiles.access import MIB
from .buffers import Buffers, filled
from .fetching import Fetcher
from .origin import Abandoned, Source
from .ranges import part_end, spread

AT_ONCE = 16
"""So many connections of 90 MB/s fill a line of 10 Gbit/s."""
_LARGE_BYTES = MIB
"""Less is copied from memory: each read through the cache looks for its blocks, and compares them as a whole."""


class Part:
    """A range that is on its way into a buffer. Or into the cache, if another process fetches it: then the buffer is
    left alone, since the first write to memory costs more than what is written there.
    """

    def __init__(self, source: Source, start: int, end: int, buffer: mmap.mmap, buffers: Buffers) -> None:
        self._source = source
        self.start = start
        self.end = end
        self._buffer = buffer
        self._buffers = buffers
        self._view = memoryview(buffer)
        self._news = threading.Condition()
        self._came = 0
        self._is_over = False
        self._is_dropped = self._is_used = self._is_elsewhere = False
        self._error: Exception | None = None
        self._wanted = -1

    def fetch(self) -> int:
        """Fetch it; returns how many bytes came from the store. Whoever reads it gets what goes wrong."""
        got = 0
        into = self._whole()
        try:
            self._progress(0)
            got, is_here = self._source.read_ahead(self.start, into, self._progress)
            self._is_elsewhere = not is_here
            self._came = len(into)
        except Abandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised where it is read
            self._error = error
        with self._news:
            self._is_over = True
            self._news.notify_all()
            if self._is_dropped:
                self._give_back()
        return got

    def copy(self, start: int, into: memoryview) -> int:
        """Copy what there is of the bytes from `start` on, having waited for the first of them; returns how many.

        Raises:
            StoreError: it could not be fetched.
        """
        at = start - self.start
        wanted = min(len(into), self.end - start)
        self._wait_for(at, wanted)
        if self._is_elsewhere:
            self._read_elsewhere(start, into[:wanted])
            return wanted
        came = self._came - at
        if came <= 0:
            assert self._error is not None
            raise self._error
        length = min(wanted, came)
        into[:length] = self._view[at : at + length]
        return length

    def take(self, start: int, length: int) -> bytes:
        """So many bytes from `start` on, all of which are in this part. Raises StoreError."""
        at = start - self.start
        self._wait_for(at, length)
        if self._came < at + length:
            assert self._error is not None
            raise self._error
        if self._is_elsewhere:
            return filled(length, partial(self._read_elsewhere, start))
        return bytes(self._view[at : at + length])

    def drop(self, *, is_finished: bool) -> None:
        """Nobody wants it any more; what is still on its way is broken off.

        Unless it is kept, and some of it was used, since the rest will likely be wanted too the next time.

        Args:
            is_finished: then it need not have been used.
        """
        with self._news:
            if not self._is_dropped:
                self._is_used = self._is_used or is_finished
                self._is_dropped = True
                if self._is_over:
                    self._give_back()

    def _wait_for(self, at: int, length: int) -> None:
        """Wait until these bytes have come, or no more will."""
        self._is_used = True
        came = at + length
        if self._came < came:
            with self._news:
                self._wanted = came
                while self._came < came and not self._is_over:
                    self._news.wait()
                self._wanted = -1
        if self._is_elsewhere and length < _LARGE_BYTES:
            self._read_elsewhere(self.start, self._whole())
            self._is_elsewhere = False

    def _read_elsewhere(self, start: int, into: memoryview) -> None:
        self._source.read_into(start, into, lambda came: None)

    def _whole(self) -> memoryview:
        return self._view[: self.end - self.start]

    def _progress(self, came: int) -> None:
        if self._is_dropped and not (self._source.keeps and self._is_used):
            raise Abandoned
        self._came = came
        if 0 <= self._wanted <= came:
            with self._news:
                self._news.notify_all()

    def _give_back(self) -> None:
        self._view.release()
        self._buffers.give_back(self._buffer)


class Window:
    """The parts around a file's position.

    Args:
        part_bytes: how large a part is at most.
    """

    def __init__(self, fetcher: Fetcher, source: Source, part_bytes: int) -> None:
        self._fetcher = fetcher
        self._source = source
        self._part_bytes = part_bytes
        self._parts: deque[Part] = deque()

    @property
    def end(self) -> int:
        """Up to where parts are there or on their way; 0 without any."""
        return self._parts[-1].end if self._parts else 0

    def holds(self, position: int) -> bool:
        """Whether the byte at a position is there or on its way."""
        return any(part.start <= position < part.end for part in self._parts)

    def extend(self, start: int, end: int) -> None:
        """Fetch on up to `end`, from where it ends now, or from `start` when it is empty; as far as memory allows."""
        if not self._parts:
            # Somebody waits for the first of it: small requests at once bring it sooner than a large one.
            for first, last in spread(start, end, self._part_bytes, AT_ONCE):
                if not self._fetch(first, last):
                    return
            return
        begin = self.end
        while begin < end:
            last = min(part_end(begin, self._part_bytes), self._source.version.size)
            # What is less than a part is better fetched with what comes next.
            if last > end or not self._fetch(begin, last):
                return
            begin = last

    def _fetch(self, start: int, end: int) -> bool:
        buffer = self._fetcher.buffers.take(end - start)
        if buffer is None:
            return False
        part = Part(self._source, start, end, buffer, self._fetcher.buffers)
        is_ahead = bool(self._parts)
        self._parts.append(part)
        self._fetcher.submit(part.fetch, is_ahead=is_ahead)
        return True

    def read(self, position: int, into: memoryview) -> int:
        """Copy bytes from a position that it holds; returns how many."""
        for part in self._parts:
            if part.start <= position < part.end:
                return part.copy(position, into)
        return 0

    def part_with(self, position: int, length: int) -> Part | None:
        """The part that holds all of these bytes, if there is one."""
        for part in self._parts:
            if part.start <= position and position + length <= part.end:
                return part
        return None

    def begin_after(self, position: int, until: int) -> int:
        """Where the first part behind a position begins; no further than `until`."""
        return min([until, *(part.start for part in self._parts if part.start > position)])

    def pass_by(self, position: int) -> None:
        """Let go of all before a position."""
        while self._parts and self._parts[0].end <= position:
            self._parts.popleft().drop(is_finished=False)

    def clear(self, *, is_finished: bool) -> None:
        """Let go of everything.

        Args:
            is_finished: what is on its way, and kept, comes to its end.
        """
        while self._parts:
            self._parts.popleft().drop(is_finished=is_finished)
