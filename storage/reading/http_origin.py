"""Objects by GETs of ranges: bytes go from the socket straight into the reader's memory.

How a store is asked is its server's matter (signed_s3, direct_gcs). What follows from its answers is the same for each
and stands here: what is tried again, and from where; what is an error; and which bytes are never handed out.

A file system's own methods (an event loop that all requests share, two copies of each byte) are left out: they are
what bounds its speed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import Protocol

from ..answer import Answer, Space
from ..connections import Broken, Connections
from ..errors import ObjectChanged, StoreUnavailable
from ..trying import PASSING, TOO_MUCH, Again, patiently
from .origin import Origin, Progress, Version

_SIZE = re.compile(r"bytes [\d*-]+/(\d+)")


class NotByHttp(Exception):
    """Raised by a server for an object that it can't be asked for in this way."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where something is had from.

    Attributes:
        server: (scheme, host and port).
        target: path and query.
    """

    server: tuple[str, str]
    target: str
    headers: Mapping[str, str]


class Server(Protocol):
    """How one kind of store is asked. Any thread may ask."""

    scheme: str
    authorities_by: str
    """The environment variable that names a file with the authorities to trust by https."""

    def address(self, path: str, version: Version | None) -> Address:
        """Where an object is had from; if a version is given, that one and no other.

        Raises:
            NotByHttp: not for this object.
            PermissionError: there are no credentials, or they can't be renewed.
        """
        ...

    def folder_address(self, path: str) -> Address:
        """Where it is said whether anything lies below a path; see `holds_any`."""
        ...

    def holds_any(self, answer: str) -> bool:
        """Whether anything does, by that answer."""
        ...

    def version(self, size: int, headers: HTTPMessage) -> Version:
        """What the object of an answer is. Raises NotByHttp if the answer does not tell."""
        ...

    def is_of(self, version: Version, headers: HTTPMessage) -> bool:
        """Whether an answer holds bytes of that version."""
        ...

    def reason(self, answer: str) -> str:
        """What the store calls what went wrong; "" if it does not say."""
        ...

    def lacks_bucket(self, reason: str) -> bool:
        """Whether that means that there is no such bucket."""
        ...

    def renew(self, path: str, status: int) -> bool:
        """The credentials were refused; returns whether newer ones are worth a try."""
        ...

    def who(self, path: str) -> str:
        """As whom the store was asked, for an error message: what to do if that may not read."""
        ...

    def authorities(self) -> str | None:
        """That file; None: the system's."""
        ...


class HttpOrigin:
    """Reads objects of one server.

    Args:
        by_methods: reads what can't be asked for by plain GETs.
        on_refused: called when the store said that it is too much (503, 429).
    """

    def __init__(self, server: Server, by_methods: Origin, on_refused: Callable[[], None]) -> None:
        self._server = server
        self._by_methods = by_methods
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, str], Connections] = {}

    def get_ready(self, path: str) -> None:
        with suppress(NotByHttp):
            self._server.address(path, None)

    def first(self, path: str, length: int) -> tuple[Version, bytes]:
        wanted = max(1, length)

        def once() -> tuple[Version, bytes]:
            with self._get(self._server.address(path, None), {"Range": f"bytes=0-{wanted - 1}"}) as answer:
                if answer.status == 416:  # only an empty object has no first byte
                    answer.read()
                    return Version(0, answer.headers.get("ETag", "")), b""
                if answer.status not in (200, 206):
                    raise self._refusal(answer, path, None)
                version = self._server.version(self._size(answer, path), answer.headers)
                data = bytearray(min(length, version.size))
                got = answer.fill(memoryview(data), lambda _: None)
                if got < len(data):
                    raise Again(f"the answer ended after {got} of {len(data)} bytes")
                return version, bytes(data)

        try:
            return patiently(self._url(path), "read", once)
        except NotByHttp:
            return self._by_methods.first(path, length)

    def read_into(self, path: str, version: Version, start: int, into: Space, progress: Progress) -> None:
        got = 0

        def once() -> None:
            nonlocal got
            begin, end = start + got, start + len(into) - 1
            with self._get(self._server.address(path, version), {"Range": f"bytes={begin}-{end}"}) as answer:
                if answer.status not in (200, 206):
                    raise self._refusal(answer, path, version)
                self._check_range(answer, path, version, begin, end)

                def came(more: int) -> None:
                    nonlocal got  # what has come is right, so another try goes on behind it
                    got = more
                    progress(got)

                answer.fill(into, came, got)
            if got < len(into):
                raise Again(f"the answer ended after {got} of {len(into)} bytes")

        if not len(into):
            return
        try:
            patiently(self._url(path), "read", once)
        except NotByHttp:
            self._by_methods.read_into(path, version, start, into, progress)

    def close(self) -> None:
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            pool.close()

    # -- inside ------------------------------------------------------------------------------------------

    def _get(self, address: Address, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        with self._lock:
            pool = self._pools.get(address.server)
            if pool is None:
                pool = self._pools[address.server] = Connections(
                    address.server, authorities=self._server.authorities(), named_by=self._server.authorities_by
                )
        return pool.ask("GET", address.target, {**address.headers, **headers})

    def _refusal(self, answer: Answer, path: str, version: Version | None) -> Exception:
        """What an answer that holds no bytes means, of the object as it is or of a version of it."""
        said = self._server.reason(answer.read(4096).decode(errors="replace"))
        what = f"status {answer.status}" + (f" ({said})" if said else "")
        url = self._url(path)
        if answer.status in (404, 412):
            if version is None:
                return self._missing(path, said, what)
            return ObjectChanged(url, was_asked_for=bool(version.kept))
        if answer.status in PASSING:
            if answer.status in TOO_MUCH:
                self._on_refused()
            return Again(what)
        if answer.status in (401, 403):
            if self._server.renew(path, answer.status):
                return Again(what)
            return PermissionError(f"{url} may not be read: {what}. {self._server.who(path)}")
        return StoreUnavailable(f"{url} can't be read: {what}")

    def _missing(self, path: str, said: str, what: str) -> OSError:
        url, bucket = self._url(path), path.partition("/")[0]
        if self._server.lacks_bucket(said):
            return FileNotFoundError(f"{url} does not exist, since there is no bucket {bucket!r}: {what}")
        if self._is_folder(path):
            return IsADirectoryError(f"{url} is a folder; name an object in it, or list it with fs.ls()")
        return FileNotFoundError(f"{url} does not exist: {what}")

    def _is_folder(self, path: str) -> bool:
        """Only makes the message better, so it is asked once, and a store that won't say is taken at its word."""
        try:
            with self._get(self._server.folder_address(path), {}) as answer:
                text = answer.read(65536).decode(errors="replace")
                return answer.status == 200 and self._server.holds_any(text)
        except Broken:
            return False

    def _size(self, answer: Answer, path: str) -> int:
        if answer.status == 200:
            length = answer.headers.get("Content-Length", "")
            if not length.isdigit():
                raise StoreUnavailable(
                    f"{self._url(path)} has no known size, so it can't be read in ranges; open it without a profile"
                )
            return int(length)
        found = _SIZE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None:
            raise Again(f"it answered with the range {answer.headers.get('Content-Range')!r}")
        return int(found[1])

    def _check_range(self, answer: Answer, path: str, version: Version, begin: int, end: int) -> None:
        if not self._server.is_of(version, answer.headers):
            raise ObjectChanged(self._url(path))
        if answer.status == 200 and begin == 0 and end + 1 == version.size:
            return
        if answer.headers.get("Content-Range") != f"bytes {begin}-{end}/{version.size}":
            raise StoreUnavailable(
                f"{self._url(path)}: the store was asked for bytes {begin} to {end} and answered with "
                f"{answer.headers.get('Content-Range')!r}; it does not serve ranges as {self._server.scheme}:// does"
            )

    def _url(self, path: str) -> str:
        return f"{self._server.scheme}://{path}"
