"""The gateway as an ASGI application: raises the lane for each request that goes to the upstream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from ..jobs.settings import GatewaySettings
from ..workers.lane.live import Live
from .body import ClientGone
from .forward import Forwarder, Progress, UpstreamFault
from .keys import ApiKeys
from .meter import Meter
from .metrics import CONTENT_TYPE, Metrics
from .promise import Promise
from .refusal import Refusal, answer

log = logging.getLogger(__name__)

_TEXT = b"text/plain; charset=utf-8"
_TELL_S = 1.0
_PROMISE_S = 10.0
_SESSION = b"x-session-id"


class BrokenOff(Exception):
    """Raised when an answer that has begun can't be ended: the server then breaks the client's connection."""


class Gateway:
    """A reverse proxy for one upstream.

    Args:
        live: counts its requests; its lane is raised before anything of a request's body is read.
    """

    def __init__(self, settings: GatewaySettings, live: Live) -> None:
        self.live = live
        self.is_draining = False
        self._settings = settings
        self._keys = ApiKeys(settings.api_keys)
        self._forwarder = Forwarder(settings)
        self._meter = Meter()
        self._metrics = Metrics(in_flight=lambda: live.in_flight, raised_s=lambda: live.raised_s)
        self._promise = Promise(
            first_byte_s=_seconds(settings.promise_first_byte_ms), gap_s=_seconds(settings.promise_gap_ms)
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        own = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._show_metrics}.get(scope["path"])
        if own is not None and scope["method"] in ("GET", "HEAD"):
            await own(send)
            return
        await self._proxy(scope, receive, send)

    # -- the upstream's ----------------------------------------------------------------------------------

    async def _proxy(self, scope: Any, receive: Any, send: Any) -> None:
        arrived = time.monotonic()
        try:
            self._admit(scope)
        except Refusal as refusal:
            await self._refuse(send, refusal)
            return
        conversation = _conversation(scope)
        self.live.begin(conversation)
        try:
            await self._forward(scope, receive, send, arrived)
        finally:
            self.live.end(conversation)

    def _admit(self, scope: Any) -> None:
        """Raise Refusal for a request that must not raise the lane."""
        headers = scope["headers"]
        if sum(len(name) + len(value) for name, value in headers) > self._settings.max_header_bytes:
            raise Refusal(
                431, "headers_too_large",
                f"The request's headers are larger than {self._settings.max_header_bytes:,} bytes (max_header_bytes).",
                ((b"connection", b"close"),),
            )  # fmt: skip
        self._keys.check(next((value for name, value in headers if name == b"authorization"), b""))
        if any(name == b"upgrade" for name, _ in headers):
            raise Refusal(501, "upgrade_not_supported", "This gateway forwards plain requests and streams only.")
        if self.live.in_flight >= self._settings.max_streams:
            raise Refusal(
                503, "too_many_requests_in_flight",
                f"{self._settings.max_streams} requests are under way, which is what this gateway takes (max_streams). "
                f"Try again in a moment.",
                ((b"retry-after", b"1"),),
            )  # fmt: skip

    async def _forward(self, scope: Any, receive: Any, send: Any, arrived: float) -> None:
        status = 0
        last: float | None = None

        def on_status(found: int) -> None:
            nonlocal status
            status = found

        def on_chunk() -> None:
            nonlocal last
            now = time.monotonic()
            if last is None:
                self._meter.first_byte(now - arrived, now)
                self._metrics.first_byte.observe(now - arrived)
            else:
                self._meter.gap(now - last, now)
                self._metrics.gap.observe(now - last)
            last = now

        try:
            await self._forwarder.forward(scope, receive, send, Progress(on_status, on_chunk))
        except ClientGone:
            self._metrics.disconnects.inc()
        except Refusal as refusal:
            if isinstance(refusal, UpstreamFault):
                self._metrics.upstream_errors.labels(refusal.fault).inc()
                log.warning("%s %s: %s", scope["method"], scope["path"], refusal.message)
            if status == 0:
                await self._refuse(send, refusal)
                return
            self._metrics.requests.labels(str(status)).inc()
            raise BrokenOff(refusal.message) from refusal
        self._metrics.requests.labels(str(status) if status else "499").inc()

    async def _refuse(self, send: Any, refusal: Refusal) -> None:
        self._metrics.requests.labels(str(refusal.status)).inc()
        await answer(send, refusal.status, b"application/json", refusal.body(), refusal.headers)

    # -- our own -----------------------------------------------------------------------------------------

    async def _healthz(self, send: Any) -> None:
        await answer(send, 200, _TEXT, b"ok\n")

    async def _readyz(self, send: Any) -> None:
        if self.is_draining:
            await answer(send, 503, _TEXT, b"draining\n")
        elif await self._forwarder.is_reachable():
            await answer(send, 200, _TEXT, b"ready\n")
        else:
            await answer(send, 503, _TEXT, f"{self._settings.upstream} takes no connection\n".encode())

    async def _show_metrics(self, send: Any) -> None:
        await answer(send, 200, CONTENT_TYPE, self._metrics.text())

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        telling = asyncio.create_task(self._tell())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling
        await self._forwarder.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _tell(self) -> None:
        """Say once a second how live traffic fares, and what that leaves to batch work."""
        while True:
            now = time.monotonic()
            figures = self._meter.figures(self.live.in_flight, now)
            for source in self.live.sources:
                source.tell(figures)
            if self._promise.was_made:
                # Over a shorter while, or one bad moment would be answered again until it has left the minute.
                lately = self._meter.figures(self.live.in_flight, now, within_s=_PROMISE_S)
                self.live.leave(self._promise.headroom(lately, now), self._promise.reason(lately))
            await asyncio.sleep(_TELL_S)


def _conversation(scope: Any) -> Hashable:
    """Requests of one conversation come from the same place with the same credentials, and session if they say so."""
    headers = scope["headers"]
    told = tuple(value for name, value in headers if name in (b"authorization", _SESSION))
    return (scope["client"][0] if scope["client"] else "", hash(told))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
