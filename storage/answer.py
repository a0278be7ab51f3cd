"""An answer whose body goes from the socket straight into the caller's memory.

http.client reads what has come each time something has: of a part of 8 MiB that is a hundred calls, for each of which
a thread needs the interpreter. Here the kernel waits until much has come (MSG_WAITALL), which takes a tenth of them.
"""

from __future__ import annotations

import http.client
import socket
import struct
import time
from collections.abc import Callable
from typing import Protocol

_LEAST_BYTES, _MOST_BYTES = 64 * 1024, 1024 * 1024
_END_BYTES = 640 * 1024
_SLOW_S = 0.1
"""A call that took longer is followed by smaller ones: whoever waits for the next byte is not to wait for many. Where
48 connections share 1 GB/s, 1 MiB takes each of them 50 ms; smaller calls would only make a busy machine busier."""


class Space(Protocol):
    """Writable memory as if it were one piece: a memoryview, or several that follow each other."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> memoryview:
        """What begins there and lies in one piece, which may be less than was asked for."""
        ...


class Answer(http.client.HTTPResponse):
    """As http.client's, for which it is made by the connection."""

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
        self._sock = sock

    def fill(self, into: Space, progress: Callable[[int], None], got: int = 0) -> int:
        """Read up to the end of the memory or of the body; returns how many bytes are there then.

        Args:
            progress: told each time more has come, and how much it is in all; what it raises ends reading.
            got: so many are there already; what comes belongs behind them.

        Raises:
            TimeoutError: nothing came for as long as the connection's timeout says, or twice that.
        """
        if not self._is_plain():
            while got < len(into) and (more := self.readinto(into[got : got + _LEAST_BYTES * 4])):
                got += more
                progress(got)
            return got
        until = min(len(into), got + (self.length or 0))
        if got < until:
            # What was read along with the headers is in a buffer; when that is empty, the next bytes are read into it.
            buffered = min(until, got + len(self.peek()))
            while got < buffered and (more := self.readinto(into[got:buffered])):
                got += more
            progress(got)
        if got < until:
            got = self._receive(into, got, until, progress)
        return got

    def _is_plain(self) -> bool:
        """Whether the rest of the body is what comes next on the socket, and nothing else."""
        is_framed_by_length = self.length is not None and not self.chunked and not self.will_close
        return is_framed_by_length and type(self._sock) is socket.socket

    def _receive(self, into: Space, got: int, until: int, progress: Callable[[int], None]) -> int:
        sock, step = self._sock, _LEAST_BYTES
        silent_s = sock.gettimeout()
        # A timeout of Python's own means that no call waits for more than the first bytes; the kernel's doesn't.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(silent_s))
        sock.settimeout(None)
        try:
            while got < until:
                began = time.monotonic()
                try:
                    more = sock.recv_into(into[got : got + _next(step, until - got)], 0, socket.MSG_WAITALL)
                except BlockingIOError as error:
                    raise TimeoutError(f"nothing came for {silent_s:g} s") from error
                is_slow = time.monotonic() - began > _SLOW_S
                if not more:
                    return got
                got += more
                assert self.length is not None
                self.length -= more
                progress(got)
                step = max(_LEAST_BYTES, step // 2) if is_slow else min(_MOST_BYTES, step * 2)
        finally:
            sock.settimeout(silent_s)
        if not self.length:
            self.close()  # as http.client's own methods do: the connection is free for the next request
        return got


def _next(step: int, left: int) -> int:
    """How much to wait for: a step; the end in two halves, so that one can be seen to while the other comes."""
    if left > 2 * step:
        return step
    return left // 2 if left > _END_BYTES else left


def _timeval(seconds: float | None) -> bytes:
    """A struct timeval; 0: for ever."""
    whole, part = divmod(seconds or 0.0, 1.0)
    return struct.pack("@ll", int(whole), int(part * 1e6))
