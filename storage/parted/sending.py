"""Sends the parts of S3 uploads so that they can be cut off: what the kernel holds of them is thrown away, too.

By s3fs, megabytes of each connection still go out after it has to stop, for half a second and more: its event loop and
the kernel have taken them.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import socket
import ssl
import struct
import termios
import threading
import time
import weakref
from contextlib import suppress
from urllib.parse import urlsplit

from ..errors import SettingsError, StoreUnavailable
from ..flow import Flow

_CONNECT_S, _SILENT_S = 5.0, 15.0
_BREAKS = (OSError, http.client.HTTPException)
_MEANWHILE = (ConnectionError, http.client.BadStatusLine, ssl.SSLError)
"""What a connection that the server has closed may say, when it is used once more."""
_RESET = struct.pack("ii", 1, 0)


class NoSuchUpload(Exception):
    """Raised when S3 says that there is no such upload."""


class PartSender:
    """Sends parts by signed URLs; keeps connections. Thread-safe.

    Args:
        where: how messages name the store.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._idle: list[tuple[tuple[str, str], http.client.HTTPConnection]] = []
        weakref.finalize(self, _close, self._idle)

    def send(self, url: str, data: bytes, flow: Flow) -> str:
        """PUT the bytes; returns the ETag.

        A part that has to stop is let go on only if it will be there within half of the flow's bound.

        Raises:
            Interrupted: `flow` was stopped.
            NoSuchUpload: it is finished or dropped.
            StoreUnavailable: no answer, or one that may be another the next time.
        """
        parts = urlsplit(url)
        origin = (parts.scheme, parts.netloc)
        target = f"{parts.path}?{parts.query}"
        while True:
            flow.check()
            kept = self._take(origin)
            connection = kept or self._connect(origin)
            try:
                return self._exchange(connection, origin, target, data, flow)
            except _BREAKS as error:
                _reset(connection)
                flow.check()
                # One that was kept may have been closed by the server meanwhile, which says nothing.
                if kept is None or not isinstance(error, _MEANWHILE):
                    raise self._away(f"{type(error).__name__}: {error}") from error

    def _exchange(
        self, connection: http.client.HTTPConnection, origin: tuple[str, str], target: str, data: bytes, flow: Flow
    ) -> str:
        sent, begin = 0, time.perf_counter()

        def stop() -> None:
            """Cut it off, at once or, if it is nearly there, a little later."""
            left = len(data) - sent + _in_kernel(connection.sock)
            took = time.perf_counter() - begin
            gone = len(data) - left
            if gone > 0 and took * left / gone <= flow.bound_s / 2:
                timer = threading.Timer(flow.bound_s * 0.6, _shut, (connection.sock,))
                timer.daemon = True
                timer.start()
                timers.append(timer)
            else:
                _shut(connection.sock)

        timers: list[threading.Timer] = []
        connection.putrequest("PUT", target, skip_accept_encoding=True)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders()
        try:
            with flow.cutting(stop):
                view = memoryview(data)
                while sent < len(data):
                    chunk_began = time.perf_counter()
                    more = connection.sock.send(view[sent : sent + flow.chunk_bytes])
                    flow.moved(more, time.perf_counter() - chunk_began)
                    sent += more
                response = connection.getresponse()
                text = response.read().decode(errors="replace")
        finally:
            for timer in timers:
                timer.cancel()
        if response.status != 200:
            _reset(connection)
            said = re.search(r"<Code>([^<]{1,100})</Code>", text)
            if response.status == 404 and said is not None and said[1] == "NoSuchUpload":
                raise NoSuchUpload
            raise self._away(f"status {response.status}" + (f" ({said[1]})" if said else ""))
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append((origin, connection))
        return response.headers["ETag"]

    def _take(self, origin: tuple[str, str]) -> http.client.HTTPConnection | None:
        with self._lock:
            for place, (known, connection) in enumerate(self._idle):
                if known == origin:
                    del self._idle[place]
                    return connection
        return None

    def _connect(self, origin: tuple[str, str]) -> http.client.HTTPConnection:
        scheme, host = origin
        try:
            if scheme == "https":
                context = ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))  # as botocore does
                connection = http.client.HTTPSConnection(host, timeout=_CONNECT_S, context=context)
            else:
                connection = http.client.HTTPConnection(host, timeout=_CONNECT_S)
            connection.connect()
            connection.sock.settimeout(_SILENT_S)
        except ssl.SSLCertVerificationError as error:  # trying again changes nothing
            raise SettingsError(
                f"The certificate of {host} is not trusted: {error.verify_message}. "
                f"Name a file with the authorities to trust as AWS_CA_BUNDLE."
            ) from error
        except OSError as error:
            raise self._away(f"{type(error).__name__}: {error}") from error
        return connection

    def _away(self, what: str) -> StoreUnavailable:
        return StoreUnavailable(f"The store {self._where} takes no part of an upload: {what}")


def _close(idle: list[tuple[tuple[str, str], http.client.HTTPConnection]]) -> None:
    for _, connection in idle:
        connection.close()


def _in_kernel(sock: socket.socket) -> int:
    """Bytes that were handed to the kernel and have not arrived."""
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"), "little")
    except (OSError, ValueError):  # closed meanwhile
        return 0


def _shut(sock: socket.socket) -> None:
    """Whoever waits for the socket is told at once; that one resets it."""
    with suppress(OSError, ValueError):
        # Of a TLS connection, too, the plain one below: there is nothing to say any more.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _reset(connection: http.client.HTTPConnection) -> None:
    """Close it so that what the kernel holds is thrown away, instead of being sent on."""
    with suppress(OSError, ValueError, AttributeError):
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    connection.close()
