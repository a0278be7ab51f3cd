"""One request's way to the upstream and its answer's way back, as the bytes that they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..jobs.settings import GatewaySettings
from .body import Body, ClientGone
from .refusal import Refusal
from .upstream import Connection, Head, Upstream, UpstreamFault

__all__ = ["Forwarder", "Progress", "UpstreamFault"]

Headers = Iterable[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""RFC 9110, section 7.6.1, and what is older."""
_OURS = frozenset((b"host", b"expect", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"))
_FRAMING = frozenset((b"content-length",))
"""What Connection may name as often as it likes: without it, one request would be taken for two."""


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
    """Forwards requests to one upstream."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._upstream = Upstream(settings)
        key = settings.upstream_api_key
        self._authorization = None if key is None else f"Bearer {key.get_secret_value()}".encode()
        self._drops_authorization = bool(settings.api_keys)

    async def close(self) -> None:
        """Close what is open."""
        self._upstream.close()

    async def is_reachable(self) -> bool:
        """Whether the upstream takes a connection, or did a moment ago."""
        return await self._upstream.is_reachable()

    async def forward(self, scope: Any, receive: Any, send: Any, progress: Progress) -> None:
        """Forward a request and its answer.

        Raises:
            Refusal: nothing was sent to the client yet; this is the answer.
            UpstreamFault: likewise, or, once `progress.on_status` was called, the answer has to be broken off.
            ClientGone: the client left, or took nothing for the idle time-out; the upstream was let go of at once.
        """
        task = asyncio.current_task()
        assert task is not None
        body = Body(scope["headers"], receive, self._settings, stop=task.cancel)
        head = self._request_head(scope)
        connection: Connection | None = None
        watch: asyncio.Task[None] | None = None
        try:
            if not body.is_expected:
                watch = asyncio.create_task(body.watch())
            connection = await self._upstream.lend()
            connection.begin(scope["method"], head)
            if watch is None:
                watch = asyncio.create_task(_pass_on(body, connection, is_chunked=_is_chunked(scope["headers"])))
            else:
                connection.finish()
            await self._answer(connection, send, progress)
        except asyncio.CancelledError:
            if body.problem is None:
                raise
            task.uncancel()
            raise body.problem from None
        finally:
            if watch is not None:
                watch.cancel()
            if connection is not None:
                self._upstream.give_back(connection)

    # -- inside ------------------------------------------------------------------------------------------

    async def _answer(self, connection: Connection, send: Any, progress: Progress) -> None:
        head = await connection.head()
        progress.on_status(head.status)
        await self._send(send, _start(head))
        while chunk := await connection.read():
            progress.on_chunk()
            await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b""})

    async def _send(self, send: Any, message: dict[str, Any]) -> None:
        """One that takes nothing for too long is taken for gone: else it would keep the lane."""
        try:
            async with asyncio.timeout(self._settings.idle_timeout_s):
                await send(message)
        except TimeoutError:
            raise ClientGone from None

    def _request_head(self, scope: Any) -> bytes:
        """The request line and headers: the client's but for those of its own connection, and where it came from."""
        path: bytes = scope["raw_path"]
        if not path.startswith(b"/"):
            raise Refusal(400, "bad_target", "Only requests for a path are forwarded.")
        query: bytes = scope["query_string"]
        given: list[tuple[bytes, bytes]] = scope["headers"]
        dropped = _HOP_BY_HOP | _OURS | (_listed(given) - _FRAMING)
        if self._drops_authorization or self._authorization is not None:
            dropped |= {b"authorization"}
        known = {name: value for name, value in given if name in _OURS}
        client = scope["client"][0].encode() if scope["client"] else b""
        lines = [
            b"%b %b%b HTTP/1.1" % (scope["method"].encode(), path, b"?" + query if query else b""),
            b"host: " + self._upstream.authority,
            *(name + b": " + value for name, value in given if name not in dropped),
            b"x-forwarded-for: " + b", ".join(part for part in (known.get(b"x-forwarded-for"), client) if part),
            b"x-forwarded-host: " + (known.get(b"x-forwarded-host") or known.get(b"host", b"")),
            b"x-forwarded-proto: " + (known.get(b"x-forwarded-proto") or scope["scheme"].encode()),
        ]
        if self._authorization is not None:
            lines.append(b"authorization: " + self._authorization)
        if _is_chunked(given):
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n"


async def _pass_on(body: Body, connection: Connection, *, is_chunked: bool) -> None:
    """Pass the body on, then notice when the client leaves."""
    try:
        async for part in body.parts():
            await connection.send(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
        if is_chunked:
            await connection.send(b"0\r\n\r\n")
    except UpstreamFault as fault:
        connection.fail(fault)
        return
    connection.finish()
    await body.watch()


def _start(head: Head) -> dict[str, Any]:
    dropped = _HOP_BY_HOP | (_listed(head.headers) - _FRAMING)
    kept = [(name, value) for name, value in head.headers if name not in dropped]
    return {"type": "http.response.start", "status": head.status, "headers": kept}


def _is_chunked(headers: Headers) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers)


def _listed(headers: Headers) -> set[bytes]:
    """The headers that Connection says are of this connection only."""
    return {part.strip().lower() for name, value in headers if name == b"connection" for part in value.split(b",")}
