"""One request's way to the upstream and its answer's way back, as the bytes that they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Never
from urllib.parse import urlsplit

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from ..jobs.settings import GatewaySettings
from .body import Body
from .refusal import Refusal

Headers = Iterable[tuple[bytes, bytes]]
Fault = Literal["unreachable", "connect_timeout", "first_byte_timeout", "idle_timeout", "reset", "garbage"]

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""RFC 9110, section 7.6.1, and what is older."""
_OURS = frozenset((b"host", b"expect", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))
_STATUS: dict[Fault, int] = {
    "unreachable": 502,
    "connect_timeout": 504,
    "first_byte_timeout": 504,
    "idle_timeout": 504,
    "reset": 502,
    "garbage": 502,
}
_KEPT_S = 4.0
_LONGEST_LINE = 64 * 1024


class UpstreamFault(Refusal):
    """Raised when the upstream does not answer as it should."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(_STATUS[fault], f"upstream_{fault}", message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True)
class Progress:
    """Whom to tell what happens on the way.

    Attributes:
        on_status: the answer's status, when its headers have come.
        on_chunk: each piece of its body, when it has come.
    """

    on_status: Callable[[int], None]
    on_chunk: Callable[[], None]


class Forwarder:
    """Forwards requests to one upstream.

    A plain-HTTP upstream gets a connection of its own for each request. That is quick within a network, closing it is
    the one sure way to abort a request, and some servers end a kept connection after a stream without saying so.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.upstream)
        self._host, self._port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        self._keeps = parts.scheme == "https"
        key = settings.upstream_api_key
        self._authorization = None if key is None else f"Bearer {key.get_secret_value()}"
        self._drops_authorization = bool(settings.api_keys)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()

    async def is_reachable(self) -> bool:
        """Whether the upstream takes a connection now."""
        try:
            async with asyncio.timeout(min(2.0, self._settings.connect_timeout_s)):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def forward(self, scope: Any, receive: Any, send: Any, progress: Progress) -> None:
        """Forward a request and its answer.

        Raises:
            Refusal: nothing was sent to the client yet; this is the answer.
            UpstreamFault: likewise, or, once `progress.on_status` was called, the answer has to be broken off.
            ClientGone: the client left; the upstream was let go of at once.
        """
        task = asyncio.current_task()
        assert task is not None
        body = Body(scope["headers"], receive, self._settings, stop=task.cancel)
        watch = asyncio.create_task(body.watch())
        try:
            await self._exchange(scope, body, send, progress)
        except asyncio.CancelledError:
            if body.problem is None:
                raise
            task.uncancel()
            raise body.problem from None
        finally:
            watch.cancel()

    # -- inside ------------------------------------------------------------------------------------------

    async def _exchange(self, scope: Any, body: Body, send: Any, progress: Progress) -> None:
        settings, now = self._settings, asyncio.get_running_loop().time
        headers, url = self._headers(scope), self._url(scope)
        waits: Fault = "first_byte_timeout"
        try:
            async with asyncio.timeout_at(now() + settings.connect_timeout_s + settings.first_byte_timeout_s) as limit:
                # The upstream's time begins anew with each part of the request that it is given.
                body.on_part = lambda: limit.reschedule(now() + settings.first_byte_timeout_s)
                async with self._open().request(
                    scope["method"],
                    url,
                    headers=headers,
                    data=body.parts() if body.is_expected else None,
                    allow_redirects=False,
                ) as response:
                    progress.on_status(response.status)
                    await send(_start(response))
                    while chunk := await response.content.readany():
                        progress.on_chunk()
                        waits = "idle_timeout"
                        limit.reschedule(now() + settings.idle_timeout_s)
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                        limit.reschedule(now() + settings.idle_timeout_s)
        except TimeoutError as error:
            self._explain(error, waits)
        except aiohttp.ClientError as error:
            self._explain(error, waits)
        await send({"type": "http.response.body", "body": b""})

    def _explain(self, error: Exception, waits: Fault) -> Never:
        settings = self._settings
        match error:
            case aiohttp.ConnectionTimeoutError():
                fault, what = "connect_timeout", f"takes no connection within {settings.connect_timeout_s:g} s"
            case aiohttp.ClientConnectorError():
                fault, what = "unreachable", f"can't be reached ({error.os_error.strerror or error.os_error})"
            case TimeoutError():
                seconds = settings.idle_timeout_s if waits == "idle_timeout" else settings.first_byte_timeout_s
                fault, what = waits, f"was silent for {seconds:g} s"
            case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError():
                fault, what = "reset", "closed the connection before its answer was whole"
            case _:
                fault, what = "garbage", f"answered what is no HTTP ({error})"
        raise UpstreamFault(fault, f"The model server behind this gateway {what}. Try again later.") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=self._connector(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_s),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                max_line_size=_LONGEST_LINE,
                max_field_size=_LONGEST_LINE,
            )
        return self._session

    def _connector(self) -> aiohttp.TCPConnector:
        if self._keeps:
            return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_S)
        return aiohttp.TCPConnector(limit=0, force_close=True)

    def _url(self, scope: Any) -> URL:
        path: bytes = scope["raw_path"]
        if not path.startswith(b"/"):
            raise Refusal(400, "bad_target", "Only requests for a path are forwarded.")
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        return URL(f"{self._settings.upstream}{(path + query).decode('ascii')}", encoded=True)

    def _headers(self, scope: Any) -> CIMultiDict[str]:
        """The client's headers but for those of its own connection, and where it came from."""
        given: list[tuple[bytes, bytes]] = scope["headers"]
        dropped = _HOP_BY_HOP | _OURS | _listed(given)
        if self._drops_authorization or self._authorization is not None:
            dropped |= {b"authorization"}
        headers: CIMultiDict[str] = CIMultiDict()
        try:
            for name, value in given:
                if name not in dropped:
                    headers.add(name.decode("ascii"), value.decode())
            known = {name: value.decode() for name, value in given if name in _OURS}
        except UnicodeDecodeError:
            raise Refusal(400, "bad_header", "A header of the request is no UTF-8 text.") from None
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        client = scope["client"][0] if scope["client"] else ""
        headers["X-Forwarded-For"] = ", ".join(part for part in (known.get(b"x-forwarded-for", ""), client) if part)
        headers["X-Forwarded-Host"] = known.get(b"x-forwarded-host") or known.get(b"host", "")
        headers["X-Forwarded-Proto"] = known.get(b"x-forwarded-proto") or scope["scheme"]
        return headers


def _start(response: aiohttp.ClientResponse) -> dict[str, Any]:
    raw = [(name.lower(), value) for name, value in response.raw_headers]
    dropped = _HOP_BY_HOP | _listed(raw)
    kept = [(name, value) for name, value in raw if name not in dropped]
    return {"type": "http.response.start", "status": response.status, "headers": kept}


def _listed(headers: Headers) -> set[bytes]:
    """The headers that Connection says are of this connection only."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
