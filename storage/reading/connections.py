"""Kept connections to one server, and what can go wrong on them."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from ..errors import SettingsError

_CONNECT_S, _SILENT_S = 5.0, 15.0
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
    def get(self, target: str, headers: Mapping[str, str]) -> Generator[http.client.HTTPResponse]:
        """The answer to a GET; its body is to be read inside. What is left of it costs the connection.

        Raises:
            Broken: no answer, or it broke off while it was read inside.
        """
        connection, response = self._answer(target, headers)
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
        self, target: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        while True:
            with self._lock:
                kept = self._idle.pop() if self._idle else None
            connection = kept or self._connect()
            try:
                connection.request("GET", target, headers=dict(headers))
                return connection, connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # One that was kept may have been closed by the server meanwhile, which says nothing.
                if kept is None or not isinstance(error, ConnectionError | http.client.BadStatusLine):
                    raise Broken(f"{type(error).__name__}: {error}") from error

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
