"""A request's body as it comes in, and whether the client is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from ..jobs.settings import GatewaySettings
from .refusal import Refusal


class ClientGone(Exception):
    """Raised when the client has left: nobody is there to answer."""


class Body:
    """Passes a body on in parts, within a limit.

    Args:
        stop: called when there is a `problem`, which then is the request's end.

    Attributes:
        problem: what ended the request from the client's side.
        on_part: called with each part.

    Raises:
        Refusal: it says itself that it is too large; nothing of it was read.
    """

    def __init__(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        receive: Any,
        settings: GatewaySettings,
        *,
        stop: Callable[[], object],
    ) -> None:
        self.problem: Refusal | ClientGone | None = None
        self.on_part: Callable[[], None] = lambda: None
        self._receive = receive
        self._settings = settings
        self._stop = stop
        self._is_read = asyncio.Event()
        known = dict(headers)
        length = known.get(b"content-length", b"0")
        if length.isdigit() and int(length) > settings.max_body_bytes:
            raise self._too_large()
        self.is_expected = b"transfer-encoding" in known or length != b"0"
        if not self.is_expected:
            self._is_read.set()

    async def parts(self) -> AsyncIterator[bytes]:
        """The body, as it comes. A problem stops the request instead of ending the body as if it were whole."""
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._settings.idle_timeout_s):
                    message = await self._receive()
            except TimeoutError:
                await self._end(
                    Refusal(
                        408,
                        "request_timeout",
                        f"Nothing more of the request's body came for {self._settings.idle_timeout_s:g} s. Send it "
                        f"again.",
                    )
                )
                return
            if message["type"] == "http.disconnect":
                await self._end(ClientGone())
                return
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                await self._end(self._too_large())
                return
            self.on_part()
            if part:
                yield part
            if not message.get("more_body"):
                self._is_read.set()
                return

    async def watch(self) -> None:
        """Once the body is read, notice when the client leaves."""
        await self._is_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            continue
        await self._end(ClientGone())

    async def _end(self, problem: Refusal | ClientGone) -> None:
        self.problem = problem
        self._stop()
        await asyncio.Event().wait()  # whoever reads us is being cancelled

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"The request's body is larger than {self._settings.max_body_bytes:,} bytes, which is what this gateway "
            f"takes (max_body_bytes). Send less at once.",
            ((b"connection", b"close"),),
        )
