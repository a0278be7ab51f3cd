"""A remote object as a file that is read: in order as fast as the store allows, at random exactly."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from ...profiles.access import MIB, Access
from ..errors import ObjectChanged
from .ahead import ReadAhead
from .fetching import Fetcher
from .heap import filled
from .origin import Source, Version
from .ranges import EDGE_BYTES, spread
from .window import Window

_LINES_BYTES = 256 * 1024
FINISHED_BYTES = 64 * MIB
"""An object of no more that is meant to be had whole is fetched to its end even if its reader jumps or leaves."""


class ObjectFile(io.BufferedIOBase):
    """One open object. Its content is that of one version, whatever happens to the object meanwhile.

    Args:
        head: its first bytes, which came with the version.

    Attributes:
        size: in bytes.
        reads: how many there were.
        on_read: told each read, its start and its length; may return values that count from now on.
        on_close: called when it is closed, by the process that opened it.

    Every read may raise ObjectChanged or StoreUnavailable.
    """

    mode = "rb"

    def __init__(self, fetcher: Fetcher, source: Source, head: bytes, access: Access, *, fs: Any = None) -> None:
        self.path = self.full_name = source.path
        self.name = source.path
        self.fs = fs
        self.size = source.version.size
        self.version = source.version
        self.reads = 0
        self.on_read: Callable[[ObjectFile, int, int], Access | None] | None = None
        self.on_close: Callable[[], None] | None = None
        self.blocksize = access.part_bytes
        self._fetcher = fetcher
        self._source = source
        self._access: Access = access
        self._head = head if fetcher.buffers.admit(len(head)) else b""
        self._ahead = ReadAhead(access, self.size)
        self._window = Window(fetcher, source, access.part_bytes)
        self._lock = threading.Lock()
        self._position = 0
        self._lines: io.BufferedReader | None = None
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.fs is None:
            raise TypeError(f"{self.path} can't be handed to another process: it was opened without a file system")
        return _opened_again, (self.fs, self.path, self.version, self.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position if self._lines is None else self._lines.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"whence is {whence}; it has to be 0, 1 or 2")
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the beginning of {self.path}")
        self._lines = None
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        position = self._leave_lines()
        left = max(0, self.size - position)
        length = left if size is None or size < 0 else min(size, left)
        if 0 < length <= self._access.part_bytes and (found := self._take(position, length)) is not None:
            self._position = position + length
            return found
        return filled(length, lambda into: self._read_all(into, position, is_for_bytes=True))

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(_LINES_BYTES if size < 0 else size)

    def readinto(self, buffer: Any, /) -> int:
        position = self._leave_lines()
        view = memoryview(buffer).cast("B")
        length = min(len(view), max(0, self.size - position))
        self._read_all(view[:length], position)
        return length

    def readinto1(self, buffer: Any, /) -> int:
        return self.readinto(buffer)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._check_open()
        if self._lines is None:
            # In C, over chunks of ours: line by line would be a call of ours for each.
            self._lines = io.BufferedReader(_Chunks(self._read_at, self._position, self.size), _LINES_BYTES)
        return self._lines.readline(-1 if size is None else size)

    def close(self) -> None:
        if not self.closed and self._process == os.getpid():
            self._let_go()
            self._fetcher.buffers.dismiss(len(self._head))
            self._head = b""
            if self.on_close is not None:
                self.on_close()
        super().close()

    # -- inside ------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path} is closed")
        if self._process != os.getpid():
            self._begin_anew()

    def _begin_anew(self) -> None:
        """In a forked child: what fetches, and what was fetched ahead, is the parent's."""
        if self.fs is None:
            raise ValueError(f"{self.path} was opened in another process, without a file system to open it again")
        reader = self.fs.reader
        if self._lines is not None:
            self._position, self._lines = self._lines.tell(), None
        self._fetcher = reader.fetcher
        self._head = self._head if self._fetcher.buffers.admit(len(self._head)) else b""
        self._source = reader.source(self.path, self.version, self._access)
        self._window = Window(self._fetcher, self._source, self._access.part_bytes)
        self._lock = threading.Lock()
        self._process = os.getpid()

    def _leave_lines(self) -> int:
        self._check_open()
        if self._lines is not None:
            self._position, self._lines = self._lines.tell(), None
        return self._position

    def _read_all(self, into: memoryview, position: int, *, is_for_bytes: bool = False) -> None:
        self._read_at(position, into, is_for_bytes=is_for_bytes)
        self._position = position + len(into)

    def _take(self, position: int, length: int) -> bytes | None:
        """Bytes that one part holds all of, without a buffer in between; the usual case of reading in order."""
        with self._lock:
            part = self._window.part_with(position, length)
            if part is None or position < len(self._head):
                return None
            self._ahead_of(position, length, position, is_for_bytes=True)
            if self._ahead.is_random:
                return None
            with self._forgetting_what_failed():
                found = part.take(position, length)
            self._window.pass_by(position + length)
            self.reads += 1
        self._tell(position, length)
        return found

    def _read_at(self, position: int, into: memoryview, *, is_for_bytes: bool = False) -> None:
        with self._lock:
            got = 0
            if position < len(self._head):
                got = min(len(into), len(self._head) - position)
                into[:got] = self._head[position : position + got]
            at = position + got
            if not self._window.holds(at) and self._source.at_hand(at, into[got:], self._fetcher.each):
                self._ahead.read(position, len(into))
                got = len(into)
            else:
                self._ahead_of(position, len(into), at, is_for_bytes=is_for_bytes)
            while got < len(into):
                at = position + got
                if self._window.holds(at):
                    with self._forgetting_what_failed():
                        got += self._window.read(at, into[got:])
                else:
                    upto = self._window.begin_after(at, position + len(into))
                    got += self._direct(at, into[got : upto - position])
            self._window.pass_by(position + got)
            self.reads += 1
        self._tell(position, len(into))

    def _ahead_of(self, position: int, length: int, missing_from: int, *, is_for_bytes: bool) -> None:
        """Begin to fetch what this read, and probably the next ones, want; they want it alike."""
        until = self._ahead.read(position, length)
        if self._ahead.is_random:
            self._let_go()
            return
        end = position + length
        if not self._window.holds(missing_from):
            self._let_go()
            if until <= end:
                return  # what nothing follows goes straight to where it is wanted
            if missing_from < end - 2 * self._access.part_bytes:  # and so does so much, while what follows it comes
                missing_from = end // EDGE_BYTES * EDGE_BYTES
        if until > missing_from:
            self._window.extend(missing_from, until, read_at=position, bytes_of=length if is_for_bytes else 0)

    @contextmanager
    def _forgetting_what_failed(self) -> Generator[None]:
        """A part that could not be fetched would fail for ever; the next read is to try again."""
        try:
            yield
        except Exception:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Nobody wants what is in the window any more."""
        is_wanted_whole = self._access.read_ahead == "whole" and self.size <= FINISHED_BYTES
        self._window.clear(is_finished=is_wanted_whole)

    def _tell(self, position: int, length: int) -> None:
        access = None if self.on_read is None else self.on_read(self, position, length)
        if access is not None and access != self._access:
            with self._lock:
                self._access = access
                self._ahead = self._ahead.under(access)

    def _direct(self, at: int, into: memoryview) -> int:
        """Fetch straight into the reader's memory, in parts at once."""
        cut = spread(at, at + len(into), self._access.part_bytes, self._access.connections)
        self._fetcher.fill(self._source, [(start, into[start - at : stop - at]) for start, stop in cut])
        return len(into)


def _opened_again(fs: Any, path: str, version: Version, position: int) -> Any:
    """The same file in another process. Raises ObjectChanged."""
    file = fs.open(path)
    if (file.version.size, file.version.tag) != (version.size, version.tag):
        raise ObjectChanged(path)
    file.seek(position)
    return file


class _Chunks(io.RawIOBase):
    """The rest of a file from a position on, for a buffer that cuts lines."""

    def __init__(self, read_at: Callable[[int, memoryview], None], position: int, size: int) -> None:
        self._read_at = read_at
        self._position = position
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = max(0, min(len(view), self._size - self._position))
        self._read_at(self._position, view[:length])
        self._position += length
        return length
