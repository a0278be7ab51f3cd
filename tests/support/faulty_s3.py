"""An S3 server of one object that fails as it is told: for what a real one does only on its worst days."""

from __future__ import annotations

import re
import ssl
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CERTIFICATE = Path(__file__).with_name("loopback.pem")
"""For 127.0.0.1, with its key: it guards nothing."""


class FaultyS3:
    """Serves `content` under every name that has nothing of its own in `objects`.

    Those in `refused` are answered by 403. Each GET takes the next fault that waits, if there is one.

    Faults: a status ("503", "403"), "cut" (ends after half of the body), "reset" (no answer at all), "changed" (the
    object is another one from now on), "other range", "no range" (all of it, with status 200).
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.objects: dict[str, bytes] = {}
        self.refused: set[str] = set()
        self._served_of: Counter[str] = Counter()
        self.tag = '"first"'
        self.faults: deque[str] = deque()
        self.gets = 0
        self.served_bytes = 0
        self.lock = threading.Lock()

    def served_of(self, name: str) -> int:
        """How many bytes of an object were served."""
        return self._served_of[name]

    @property
    def options(self) -> dict[str, Any]:
        """fsspec storage options for it."""
        return {
            "key": "key", "secret": "secret", "endpoint_url": self.endpoint,
            "client_kwargs": {"region_name": "us-east-1"}, "skip_instance_cache": True,
        }  # fmt: skip

    @contextmanager
    def serving(self, *, by_https: bool = False) -> Iterator[FaultyS3]:
        """While inside, it listens on a port of its own; with the certificate CERTIFICATE if it is asked to."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        server.daemon_threads = True
        if by_https:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.endpoint = f"http{'s' if by_https else ''}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                return

            def handle(self) -> None:
                with suppress(ConnectionError):  # a client that has what it wants may leave
                    super().handle()

            def do_GET(self) -> None:
                with store.lock:
                    store.gets += 1
                    fault = store.faults.popleft() if store.faults else ""
                    if fault == "changed":
                        store.content, store.tag = bytes(reversed(store.content)), '"second"'
                    name = self.path.partition("?")[0].lstrip("/")
                    content, tag = store.objects.get(name, store.content), store.tag
                if name in store.refused:
                    fault = "403"
                if fault == "reset":
                    self.close_connection = True
                    return
                if fault.isdigit():
                    self._say(int(fault), b"<Error><Code>Said</Code></Error>")
                    return
                if self.headers.get("If-Match", tag) != tag:
                    self._say(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
                span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                first, last = (int(span[1]), min(int(span[2]), len(content) - 1)) if span else (0, len(content) - 1)
                if fault == "other range":
                    first, last = first + 1, last + 1
                headers = {"ETag": tag, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
                if fault == "no range":
                    self._say(200, content, {"ETag": tag})
                    return
                self._say(206, content[first : last + 1], headers, cut=fault == "cut")

            def _say(
                self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
            ) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                sent = body[: len(body) // 2] if cut else body
                with store.lock:
                    store.served_bytes += len(sent)
                    store._served_of[self.path.partition("?")[0].lstrip("/")] += len(sent)
                self.wfile.write(sent)
                self.close_connection = self.close_connection or cut

        return Handler
