"""A proxy before a real S3 server that fails as it is told: for writes, which may be half done when it does."""

from __future__ import annotations

import http.client
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote, urlsplit

from support.listening import Handler, listening


class FaultyProxy:
    """Passes requests on to `endpoint`.

    While `trouble` is above 0, that share of the requests fails: half of them are answered with 503 and not passed on,
    of the others the server does what was asked and the answer is lost.

    Attributes:
        asked: every request, as "GET /bucket/key", with its bytes as the answer has them.
    """

    def __init__(self, endpoint: str, *, seed: int = 1) -> None:
        self._upstream = urlsplit(endpoint)
        self._random = random.Random(seed)
        self.trouble = 0.0
        self.failed = 0
        self.asked: list[tuple[str, int]] = []
        self._lock = threading.Lock()

    @contextmanager
    def serving(self) -> Iterator[FaultyProxy]:
        """While inside, it listens on a port of its own."""
        with listening(self._handler()) as self.endpoint:
            yield self

    def _fault(self) -> str:
        with self._lock:
            if self._random.random() >= self.trouble:
                return ""
            self.failed += 1
            return self._random.choice(("503", "lost"))

    def _handler(self) -> type[Handler]:
        proxy = self

        class Passing(Handler):
            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                setattr(self, f"do_{self.command}", self._pass_on)
                return True

            def _pass_on(self) -> None:
                body = self._body()
                if body is None:
                    self.close_connection = True
                    return
                fault = proxy._fault()
                if fault == "503":
                    self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
                    return
                connection = http.client.HTTPConnection(
                    proxy._upstream.hostname or "", proxy._upstream.port, timeout=30
                )
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                            connection.putheader(name, value)
                    if body or self.command in ("PUT", "POST"):
                        connection.putheader("Content-Length", str(len(body)))
                    connection.endheaders(body or None)
                    answer = connection.getresponse()
                    content = answer.read()
                finally:
                    connection.close()
                if fault == "lost":
                    self.close_connection = True
                    with suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                proxy.asked.append((f"{self.command} {unquote(urlsplit(self.path).path)}", len(content)))
                self._answer(answer.status, answer.getheaders(), content)

            def _body(self) -> bytes | None:
                """None if the client went away in the middle."""
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    parts: list[bytes] = []
                    while size := int(self.rfile.readline().partition(b";")[0] or b"0", 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                return body if len(body) == length else None

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                has_length = False
                for name, value in headers:
                    if name.lower() in ("connection", "transfer-encoding"):
                        continue
                    has_length = has_length or name.lower() == "content-length"
                    self.send_header(name, value)
                if not has_length:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        return Passing
