"""What one open file has fetched ahead: parts in order, read while they still come in."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from ...profiles.access import MIB
from .fetching import Fetcher
from .heap import filled
from .origin import Abandoned, Direct, Progress, Source
from .ranges import part_end, pieces, spread
from .room import LEAST_PIECE_BYTES, Buffer, Pieces, Room, make

AT_ONCE = 16
"""So many connections of 90 MB/s fill a line of 10 Gbit/s."""
_LARGE_BYTES = MIB
"""Less is copied from memory: each read through the cache looks for its blocks, and compares them as a whole."""


class Part:
    """A range that is on its way into its room. Or into the cache, if another process fetches it: then the room is
    left alone, since the first write to memory costs more than what is written there.

    Args:
        read_ahead: as Source.read_ahead of this range, into this room.
    """

    def __init__(
        self, source: Source, start: int, end: int, room: Room, read_ahead: Callable[[Progress], tuple[int, bool]]
    ) -> None:
        self._source = source
        self.start = start
        self.end = end
        self._room = room
        self._read_ahead = read_ahead
        self._news = threading.Condition()
        self._came = 0
        self._is_over = False
        self._is_dropped = self._is_used = self._is_elsewhere = False
        self._error: Exception | None = None
        self._wanted = -1

    def fetch(self) -> int:
        """Fetch it; returns how many bytes came from the store. Whoever reads it gets what goes wrong."""
        got = 0
        try:
            self._progress(0)
            got, is_here = self._read_ahead(self._progress)
            self._is_elsewhere = not is_here
            self._came = self.end - self.start
        except Abandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised where it is read
            self._error = error
        with self._news:
            self._is_over = True
            self._news.notify_all()
            if self._is_dropped:
                self._room.give_back()
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
        got = 0
        while got < length:
            piece = self._room[at + got : at + length]
            into[got : got + len(piece)] = piece
            got += len(piece)
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
        return self._room.take(at, length)

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
                    self._room.give_back()

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
            self._read_elsewhere(self.start, self._room[: self.end - self.start])
            self._is_elsewhere = False

    def _read_elsewhere(self, start: int, into: memoryview) -> None:
        self._source.read_into(start, into, lambda came: None)

    def _progress(self, came: int) -> None:
        if self._is_dropped and not (self._source.keeps and self._is_used):
            raise Abandoned
        self._came = came
        if 0 <= self._wanted <= came:
            with self._news:
                self._news.notify_all()


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

    def extend(self, start: int, end: int, *, read_at: int = 0, bytes_of: int = 0) -> None:
        """Fetch on up to `end`, from where it ends now, or from `start` when it is empty; as far as memory allows.

        Args:
            read_at: where somebody is reading.
            bytes_of: they want bytes objects of so many, one after the other; 0: any, or none.
        """
        source, rooms, begun = self._source, list[Pieces](), list[Part]()
        # What is kept is summed up and written as a whole.
        direct = source if isinstance(source, Direct) and LEAST_PIECE_BYTES <= bytes_of <= self._part_bytes else None
        try:
            for first, last in self._cut(start, end):
                if direct is None:
                    part = self._in_a_buffer(first, last)
                else:
                    cut = pieces(first, last, read_at=read_at, read_bytes=bytes_of)
                    part = self._in_pieces(direct, first, last, cut, rooms)
                if part is None:
                    break
                is_ahead = bool(self._parts)
                begun.append(part)
                self._parts.append(part)
                self._fetcher.submit(part.fetch, is_ahead=is_ahead)
            make(rooms, self._fetcher.each)  # now that the requests are on their way
        except BaseException:  # Ctrl-C, or no memory: they would fail whoever reads on, and wait for their rooms
            for room in rooms:
                room.give_up()
            for part in begun:
                if part in self._parts:
                    self._parts.remove(part)
                part.drop(is_finished=False)
            raise

    def _cut(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        if not self._parts:
            # Somebody waits for the first of it: small requests at once bring it sooner than a large one.
            yield from spread(start, end, self._part_bytes, AT_ONCE)
            return
        begin = self.end
        while begin < end:
            last = min(part_end(begin, self._part_bytes), self._source.version.size)
            if last > end:  # what is less than a part is better fetched with what comes next
                return
            yield begin, last
            begin = last

    def _in_a_buffer(self, start: int, end: int) -> Part | None:
        source, room = self._source, Buffer.within(self._fetcher.buffers, end - start)
        if room is None:
            return None
        return Part(source, start, end, room, lambda progress: source.read_ahead(start, room.whole, progress))

    def _in_pieces(self, source: Direct, start: int, end: int, cut: Sequence[int], rooms: list[Pieces]) -> Part | None:
        room = Pieces.within(self._fetcher.buffers, cut)
        if room is None:
            return None
        rooms.append(room)
        return Part(source, start, end, room, lambda progress: source.read_ahead(start, room, progress))

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
