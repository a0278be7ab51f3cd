"""How a part of an upload goes so that it can be cut off: what the kernel holds of it is thrown away, too.

By s3fs, megabytes of each connection still go out after it has to stop, for half a second and more: its event loop and
the kernel have taken them.
"""

from __future__ import annotations

import fcntl
import socket
import termios
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from ..connections import Body, Sending, cut_off
from ..flow import Flow


def as_it_flows(flow: Flow) -> Sending:
    """In chunks of the flow's, cut off when it is stopped.

    A body that has to stop is let go on only if it will be there within half of the flow's bound.

    Raises Interrupted if it was stopped before; whoever sends asks the flow why a connection broke.
    """

    @contextmanager
    def sending(body: Body, sock: socket.socket) -> Generator[Iterator[memoryview]]:
        sent, begin = 0, time.perf_counter()
        timers: list[threading.Timer] = []

        def pieces() -> Iterator[memoryview]:
            nonlocal sent
            while sent < len(body):
                piece, began = body[sent : sent + flow.chunk_bytes], time.perf_counter()
                yield piece
                flow.moved(len(piece), time.perf_counter() - began)
                sent += len(piece)

        def stop() -> None:
            """Cut it off, at once or, if it is nearly there, a little later."""
            left = len(body) - sent + _in_kernel(sock)
            took = time.perf_counter() - begin
            gone = len(body) - left
            if gone > 0 and took * left / gone <= flow.bound_s / 2:
                timer = threading.Timer(flow.bound_s * 0.6, cut_off, (sock,))
                timer.daemon = True
                timer.start()
                timers.append(timer)
            else:
                cut_off(sock)

        flow.check()
        try:
            with flow.cutting(stop):
                yield pieces()
        finally:
            for timer in timers:
                timer.cancel()

    return sending


def _in_kernel(sock: socket.socket) -> int:
    """Bytes that were handed to the kernel and have not arrived."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), "little")
    except (OSError, ValueError):  # closed meanwhile
        return 0
