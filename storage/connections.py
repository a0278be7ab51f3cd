"""Kept connections to one server, and what can go wrong on them."""

from __future__ import annotations

import http.client
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Protocol, cast

from .answer import Answer
from .errors import SettingsError

_CONNECT_S, _SILENT_S = 5.0, 15.0
_CHUNK_BYTES = 512 * 1024
"""What is sent by one call, each of which may take as long as silence may."""
_BREAKS = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)
_CLOSED = (ConnectionError, http.client.BadStatusLine, ssl.SSLError)
"""What a connection that the server has closed may say, when it is used once more."""
_RESET = struct.pack("ii", 1, 0)


class Body(Protocol):
    """What is sent, in one place (a memoryview) or several: then a slice of it may be shorter than was asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> memoryview: ...


Sending = Callable[[Body, socket.socket], AbstractContextManager[Iterable[memoryview]]]
"""Gives the pieces of a body, each to be sent by one call. Entered once it is known by which connection they go, for
each one that is tried, and left when the answer has been read; what it raises ends the request."""


class Broken(Exception):
    """Raised when a connection ended, or fell silent, before an answer was whole."""


def evenly(before_each: Callable[[], None] = lambda: None) -> Sending:
    """In pieces of one size; `before_each` is called before each of them, and may raise."""

    def pieces(body: Body) -> Iterator[memoryview]:
        start = 0
        while start < len(body):
            before_each()
            piece = body[start : start + _CHUNK_BYTES]
            start += len(piece)
            yield piece

    @contextmanager
    def sending(body: Body, _: socket.socket) -> Generator[Iterator[memoryview]]:
        yield pieces(body)

    return sending


EVENLY = evenly()


class Connections:
    """Connections to one server; each carries one exchange at a time. Thread-safe.

    Those that are kept are closed by `close()`, or when this is gone.

    Args:
        origin: (scheme, host and port).
        authorities: a file of certificates to trust for https instead of the system's; None: the system's.
        named_by: the environment variable that names such a file.
    """

    def __init__(self, origin: tuple[str, str], *, authorities: str | None, named_by: str) -> None:
        self._scheme, self._host = origin
        self._named_by = named_by
        try:
            self._context = ssl.create_default_context(cafile=authorities) if self._scheme == "https" else None
        except OSError as error:  # of ssl, too
            raise SettingsError(
                f"{named_by} names {authorities}, which can't be used: {error.strerror or error}"
            ) from error
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._is_closed = False
        # A request may outlive whoever would have closed this, so that it has to be able to do so by itself.
        weakref.finalize(self, _close_each, self._idle).atexit = False

    @contextmanager
    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Body = b"",
        sending: Sending = EVENLY,
    ) -> Generator[Answer]:
        """The answer to a request; its body is to be read inside. What is left of it costs the connection.

        Args:
            body: sent as it lies there. A connection that was kept and turns out to be closed is replaced, so the
                server may get a request twice.
            sending: how the body goes.

        Raises:
            Broken: no answer, or it broke off while it was read inside.
        """
        with ExitStack() as under_way:
            connection, response = self._answer(method, target, headers, body, sending, under_way)
            try:
                yield response
            except _BREAKS as error:
                _drop(connection, response)
                raise Broken(f"{type(error).__name__}: {error}") from error
            except BaseException:
                _drop(connection, response)
                raise
        if response.isclosed() and not response.will_close:
            with self._lock:
                if not self._is_closed:
                    self._idle.append(connection)
                    return
        connection.close()
        response.close()  # which has the socket, if the server said that it would close the connection

    def close(self) -> None:
        """Close those that nobody uses, and the others as soon as they are not used any more."""
        with self._lock:
            self._is_closed = True
            _close_each(self._idle)

    def _answer(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Body,
        sending: Sending,
        under_way: ExitStack,
    ) -> tuple[http.client.HTTPConnection, Answer]:
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._connect()
            try:
                if not body:
                    connection.request(method, target, headers=dict(headers))
                    return connection, _response(connection)
                whole = memoryview(body) if isinstance(body, bytes) else body
                pieces = under_way.enter_context(sending(whole, connection.sock))
                return connection, _exchange(connection, method, target, headers, pieces, len(body))
            except (OSError, http.client.HTTPException) as error:
                under_way.close()
                _drop(connection)
                # One that was kept may have been closed by the server meanwhile, which says nothing.
                if kept is None or not isinstance(error, _CLOSED):
                    raise Broken(f"{type(error).__name__}: {error}") from error
            except BaseException:
                _drop(connection)
                raise

    def _connect(self) -> http.client.HTTPConnection:
        try:
            if self._scheme == "https":
                connection = http.client.HTTPSConnection(self._host, timeout=_CONNECT_S, context=self._context)
            else:
                connection = http.client.HTTPConnection(self._host, timeout=_CONNECT_S)
            connection.response_class = Answer
            connection.connect()
            connection.sock.settimeout(_SILENT_S)
        except ssl.SSLCertVerificationError as error:  # trying again changes nothing
            raise SettingsError(
                f"The certificate of {self._host} is not trusted: {error.verify_message}. "
                f"Name a file with the authorities to trust as {self._named_by}."
            ) from error
        except OSError as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        return connection


def _close_each(idle: list[http.client.HTTPConnection]) -> None:
    while idle:
        idle.pop().close()


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    pieces: Iterable[memoryview],
    size_bytes: int,
) -> Answer:
    try:
        connection.request(method, target, body=pieces, headers={**headers, "Content-Length": str(size_bytes)})
    except ConnectionError:
        # A server that wants no more of the body may have said why before it hung up.
        response = _response(connection)
        response.will_close = True
        return response
    return _response(connection)


def _response(connection: http.client.HTTPConnection) -> Answer:
    return cast("Answer", connection.getresponse())


def cut_off(sock: socket.socket) -> None:
    """End a connection from another thread: whoever waits for it is told at once, and nothing more of it goes out."""
    _reset_at_close(sock)
    with suppress(OSError, ValueError):
        # Of a TLS connection, too, the plain one below: there is nothing to say any more.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _drop(connection: http.client.HTTPConnection, response: Answer | None = None) -> None:
    if connection.sock:  # none, if http.client has closed it
        _reset_at_close(connection.sock)
    connection.close()
    if response is not None:
        response.close()


def _reset_at_close(sock: socket.socket) -> None:
    """What the kernel holds is to be thrown away then, instead of being sent on."""
    with suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
