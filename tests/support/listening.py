"""Small HTTP servers on loopback ports of their own, for tests to say how each request goes."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""For 127.0.0.1, with its key: it guards nothing."""


class Handler(BaseHTTPRequestHandler):
    """Keeps connections, logs nothing, and lets a client leave that has what it wants."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for its headers' receipt

    def log_message(self, *args: Any) -> None:
        return

    def handle(self) -> None:
        with suppress(OSError):
            super().handle()

    def say(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        cut: bool = False,
        between: Callable[[], None] | None = None,
    ) -> int:
        """Answer; returns how many bytes of the body were sent.

        Args:
            cut: end the connection after half of the body.
            between: called once half of the body is sent.
        """
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body[: len(body) // 2] if cut else body
        half = len(sent) // 2 if between is not None else len(sent)
        self.wfile.write(sent[:half])
        if between is not None:
            between()
            self.wfile.write(sent[half:])
        self.close_connection = self.close_connection or cut
        return len(sent)


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """Else many connections at once wait for each other by the second."""


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], *, by_https: bool = False) -> Iterator[str]:
    """The URL of a server that is there while inside; with the certificate CERTIFICATE if it is asked to."""
    server = _Listening(("127.0.0.1", 0), handler)
    if by_https:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if by_https else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
