"""Runs the gateway: sockets, limits on what is no whole request yet, signals, draining."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..jobs.settings import GatewaySettings, Settings
from ..storage.errors import SettingsError
from ..workers.lane.linger import Linger
from ..workers.lane.live import Live
from ..workers.lane.opening import open_sources
from .app import Gateway
from .refusal import Refusal

log = logging.getLogger(__name__)

SOURCE = "gateway"
_HEAD_S = 10.0
_BACKLOG = 1024
_OTHER_DESCRIPTORS = 64


def serve_gateway(settings: Settings, gateway: GatewaySettings, *, ready: Callable[[str], None]) -> int:
    """Serve until SIGTERM or SIGINT; then let requests under way end, and say goodbye on the lane.

    Args:
        ready: told the URL once it listens.

    Raises:
        UnknownPool, SettingsError, LaneError: before anything is listened on.
    """
    sources = open_sources(settings, SOURCE, pools=gateway.pools, device=gateway.device or "")
    live = Live(sources, Linger(most_s=gateway.linger_most_ms / 1000))
    try:
        listening = _listen(gateway)
        try:
            return _run(Gateway(gateway, live), gateway, listening, ready)
        finally:
            listening.close()
    finally:
        live.close()


def _listen(gateway: GatewaySettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((gateway.host, gateway.port))
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"The gateway can't listen on {gateway.host}:{gateway.port}: {error.strerror or error}. "
            f"Choose another port with --port, or port in [gateway]; 0 is any free one."
        ) from error
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def _run(app: Gateway, gateway: GatewaySettings, listening: socket.socket, ready: Callable[[str], None]) -> int:
    _raise_descriptors(2 * gateway.max_streams + _OTHER_DESCRIPTORS)
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    class Protocol(_LimitedProtocol):
        most_head_bytes = gateway.max_header_bytes

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(url)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.is_draining = True
            super().handle_exit(sig, frame)

    server = Server(
        uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
            date_header=False, timeout_keep_alive=75, timeout_graceful_shutdown=round(gateway.drain_timeout_s),
            proxy_headers=False,
        )
    )  # fmt: skip
    # What it says of an application that raises is said by ourselves already.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _nothing_more)
    server.run(sockets=[listening])
    return 0


def _raise_descriptors(wanted: int) -> None:
    """Each stream takes two; the soft limit is often lower than what the system would allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < possible:
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
    if possible < wanted:
        log.warning("only %d descriptors are allowed, and max_streams may need %d: raise `ulimit -n`", possible, wanted)


def _nothing_more(number: int, frame: FrameType | None) -> None:
    """uvicorn raises the signal that ended it once more: that is no failure."""


class _LimitedProtocol(HttpToolsProtocol):
    """Bounds how large the head of a request gets, and how long it takes to come."""

    most_head_bytes = 64 * 1024
    _in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.most_head_bytes:
                self._end(431, "headers_too_large", f"The request's headers exceed {self.most_head_bytes:,} bytes.")

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._over()
        self._in_head, self._head_bytes = True, 0
        self._head_timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def on_headers_complete(self) -> None:
        self._over()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._over()
        super().connection_lost(exc)

    def _over(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._end(408, "request_timeout", f"The request's headers were not whole after {_HEAD_S:g} s.")

    def _end(self, status: int, code: str, message: str) -> None:
        self._over()
        body = Refusal(status, code, message).body()
        head = (
            f"HTTP/1.1 {status} {'Request Timeout' if status == 408 else 'Request Header Fields Too Large'}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        if not self.transport.is_closing():
            self.transport.write(head.encode() + body)
            self.transport.close()
