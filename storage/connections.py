"""Kept connections to one server, and what can go wrong on them."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager

from .errors import SettingsError

_CONNECT_S, _SILENT_S = 5.0, 15.0
_CHUNK_BYTES = 512 * 1024
"""What is sent by one call, each of which may take as long as silence may."""
_BREAKS = (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException)


class Broken(Exception):
    """Raised when a connection ended, or fell silent, before an answer was whole."""


class Connections:
    """Connections to one server; each carries one exchange at a time. Thread-safe.

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

    @contextmanager
    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        sending: Callable[[], None] = lambda: None,
    ) -> Generator[http.client.HTTPResponse]:
        """The answer to a request; its body is to be read inside. What is left of it costs the connection.

        Args:
            body: sent as it lies there. A connection that was kept and turns out to be closed is replaced, so the
                server may get a request twice.
            sending: called before each piece of the body; what it raises ends the request.

        Raises:
            Broken: no answer, or it broke off while it was read inside.
        """
        connection, response = self._answer(method, target, headers, body, sending)
        try:
            yield response
        except _BREAKS as error:
            connection.close()
            raise Broken(f"{type(error).__name__}: {error}") from error
        except BaseException:
            connection.close()
            raise
        if response.isclosed() and not response.will_close:
            with self._lock:
                if not self._is_closed:
                    self._idle.append(connection)
                    return
        connection.close()

    def close(self) -> None:
        """Close those that nobody uses, and the others as soon as they are not used any more."""
        with self._lock:
            idle, self._idle, self._is_closed = self._idle, [], True
        for connection in idle:
            connection.close()

    def _answer(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | memoryview,
        sending: Callable[[], None],
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._connect()
            try:
                return connection, _exchange(connection, method, target, headers, body, sending)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # One that was kept may have been closed by the server meanwhile, which says nothing.
                if kept is None or not isinstance(error, ConnectionError | http.client.BadStatusLine):
                    raise Broken(f"{type(error).__name__}: {error}") from error
            except BaseException:
                connection.close()
                raise

    def _connect(self) -> http.client.HTTPConnection:
        try:
            if self._scheme == "https":
                connection = http.client.HTTPSConnection(self._host, timeout=_CONNECT_S, context=self._context)
            else:
                connection = http.client.HTTPConnection(self._host, timeout=_CONNECT_S)
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


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | memoryview,
    sending: Callable[[], None],
) -> http.client.HTTPResponse:
    if not body:
        connection.request(method, target, headers=dict(headers))
        return connection.getresponse()
    try:
        length = {"Content-Length": str(len(body))}
        connection.request(method, target, body=_pieces(memoryview(body), sending), headers={**headers, **length})
    except ConnectionError:
        # A server that wants no more of the body may have said why before it hung up.
        response = connection.getresponse()
        response.will_close = True
        return response
    return connection.getresponse()


def _pieces(body: memoryview, sending: Callable[[], None]) -> Iterator[memoryview]:
    for start in range(0, len(body), _CHUNK_BYTES):
        sending()
        yield body[start : start + _CHUNK_BYTES]
