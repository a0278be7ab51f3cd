"""A line to a server that carries only so much per connection and second, and says when which bytes came."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_CHUNK = 16 * 1024


class SlowLine:
    """Passes bytes on to a port of this host.

    Args:
        port: the server's.
        bytes_per_s: what each connection carries towards it; answers come at once.
    """

    def __init__(self, port: int, bytes_per_s: float) -> None:
        self._to = port
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._came: list[tuple[float, int]] = []
        self._server = socket.socket()
        # What lies here unread has come already, and would blur what comes when.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(64)
        self.port: int = self._server.getsockname()[1]

    @contextmanager
    def carrying(self) -> Iterator[SlowLine]:
        """While inside, it takes connections."""
        thread = threading.Thread(target=self._accept, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            with suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            thread.join()

    def came(self, start: float, end: float = float("inf")) -> int:
        """Bytes that came towards the server between two times (monotonic seconds)."""
        with self._lock:
            return sum(amount for at, amount in self._came if start <= at < end)

    def _accept(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
            threading.Thread(target=_answer, args=(server, client), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        free_at = time.monotonic()
        with suppress(OSError):
            while data := client.recv(_CHUNK):
                now = time.monotonic()
                with self._lock:
                    self._came.append((now, len(data)))
                server.sendall(data)
                free_at = max(free_at, now) + len(data) / self._rate
                time.sleep(max(0.0, free_at - time.monotonic()))
        _end(client, server)


def _answer(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while data := server.recv(2**18):
            client.sendall(data)
    _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
