"""One connection to the upstream: HTTP/1.1, one exchange at a time, bodies as the bytes that they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from ..patience import Patience
from .faults import UpstreamFault

Headers = list[tuple[bytes, bytes]]

_BUFFER_BYTES = 256 * 1024
"""What may wait for a slow client before the upstream is asked to pause."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the upstream is held to."""

    first_byte_timeout_s: float
    idle_timeout_s: float
    head_bytes: int


@dataclass(frozen=True, slots=True)
class Head:
    """What comes before an answer's body.

    Attributes:
        headers: as they came, but for the names, which are in lower case.
    """

    status: int
    headers: Headers


class Connection(asyncio.Protocol):
    """Sends a request and receives its answer, then may be used again.

    A request is `begin`, any number of `send`, and `finish`. Meanwhile its answer is `head`, then `read` until b"".

    Args:
        on_lost: called when the connection is gone.

    Attributes:
        arrived_at: when the latest bytes of the body came (monotonic seconds); 0.0 before the first.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, on_lost: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._limits = limits
        self._on_lost = on_lost
        self._patience = Patience(loop, self._expired)
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_reading = True
        self._forget()

    def _forget(self) -> None:
        """As before the first request."""
        self.arrived_at = 0.0
        self._error: Exception | None = None
        self._head: Head | None = None
        self._headers: Headers = []
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._has_body = True
        self._is_informational = False
        self._ends_with_connection = False
        self._keeps_alive = False
        self._is_clean = True
        self._request_is_sent = False
        self._is_complete = False

    # -- the exchange ------------------------------------------------------------------------------------

    def begin(self, method: str, head: bytes) -> None:
        """Send a request's head."""
        self._forget()
        self._has_body = method != "HEAD"
        self._parser = httptools.HttpResponseParser(self)
        self._write(head)

    async def send(self, body: bytes) -> None:
        """Send some of the body as it is on the wire. Waits while the upstream takes no more.

        Nothing happens when the connection is gone: `head` and `read` tell why.

        Raises:
            UpstreamFault: it took nothing for longer than the idle time-out.
        """
        self._write(body)
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(self._limits.idle_timeout_s):
                    await self._writable.wait()
            except TimeoutError:
                raise UpstreamFault(
                    "idle_timeout",
                    f"The upstream took none of the request's body for {self._limits.idle_timeout_s:g} s.",
                ) from None

    def finish(self) -> None:
        """The request has been sent; from now on the upstream has to answer in time."""
        self._request_is_sent = True
        if self._error is None and not self._is_complete and self.arrived_at == 0.0:
            self._patience.start(self._limits.first_byte_timeout_s)

    async def head(self) -> Head:
        """The answer's head. Raises UpstreamFault, or what `fail` was given."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._news()
        return self._head

    async def read(self) -> bytes:
        """What has come of the answer's body; b"" at its end.

        Raises:
            UpstreamFault: it broke off, once all that came before has been read.
        """
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._news()
        found = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._waiting_bytes = 0
        if not self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()
            self._patience.put_off()
        return found

    def fail(self, error: Exception) -> None:
        """End the exchange at once, whatever its state; who waits for the answer gets this error."""
        if self._error is None and not self._is_complete:
            self._error = error
        self.abort()
        self._wake()

    def abort(self) -> None:
        """Close the connection; the upstream sees it at once."""
        self._patience.stop()
        if self._transport is not None:
            self._transport.abort()

    @property
    def can_be_used_again(self) -> bool:
        """Whether the exchange has ended, and left nothing behind."""
        return (
            self._is_complete
            and self._request_is_sent
            and self._keeps_alive
            and self._is_clean
            and self._error is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    # -- what the loop calls -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not of that class

    def data_received(self, data: bytes) -> None:
        if self._parser is None:  # nobody has asked for anything
            self._is_clean = False
            self.abort()
            return
        before = self._waiting_bytes
        self._head_bytes += 0 if self._head else len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            fault = cause if isinstance(cause, UpstreamFault) else _garbage(str(error))
            self._is_clean = False
            self.fail(fault)
            return
        if self._head is None and self._head_bytes > self._limits.head_bytes:
            self.fail(_garbage(f"its headers exceed {self._limits.head_bytes} bytes"))
            return
        if self._is_complete:
            self._parser = None
            self._patience.stop()
        elif self._waiting_bytes > before:
            self._progress(is_first=self.arrived_at == 0.0)
        if self._waiting_bytes > before:
            self.arrived_at = time.monotonic()
        self._wake()

    def eof_received(self) -> None:
        if self._ends_with_connection and not self._is_complete:
            self._complete()
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.stop()
        self._transport = None
        self._parser = None
        if not self._is_complete and self._error is None:
            self._error = UpstreamFault("reset", "The upstream closed the connection before its answer was complete.")
        self._writable.set()
        self._wake()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- what the parser calls ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_complete:
            self._is_clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is None:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._is_complete or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 100 or status > 599 or status == 101:
            raise _garbage(f"it answered with status {status}")
        if status < 200:
            self._is_informational = True
            return
        names = {name for name, _ in self._headers}
        coding = [value.strip().lower() for name, value in self._headers if name == b"transfer-encoding"]
        if coding not in ([], [b"chunked"]):
            raise _garbage("it answered in a transfer coding other than chunked")
        self._keeps_alive = self._parser.should_keep_alive()
        self._ends_with_connection = not coding and b"content-length" not in names
        self._head = Head(status, self._headers)
        if not self._has_body or status in (204, 304):
            self._complete()

    def on_body(self, body: bytes) -> None:
        if self._is_complete:
            self._is_clean = False
            return
        self._pieces.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._is_informational:
            self._is_informational = False
            self._headers = []
        elif not self._is_complete:
            self._complete()

    # -- inside ------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._error is None and not self._transport.is_closing():
            self._transport.write(data)

    def _complete(self) -> None:
        self._is_complete = True
        self._patience.stop()

    def _progress(self, *, is_first: bool) -> None:
        """Some of the body has come."""
        if is_first:
            self._patience.start(self._limits.idle_timeout_s)
        else:
            self._patience.put_off()
        if self._waiting_bytes > _BUFFER_BYTES and self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _expired(self) -> None:
        if not self._is_reading:  # the client is slow, and has a time-out of its own
            self._patience.start(self._limits.idle_timeout_s)
        elif self.arrived_at == 0.0:
            limit = self._limits.first_byte_timeout_s
            self.fail(UpstreamFault("first_byte_timeout", f"The upstream sent no answer within {limit:g} s."))
        else:
            limit = self._limits.idle_timeout_s
            self.fail(UpstreamFault("idle_timeout", f"The upstream fell silent for {limit:g} s within its answer."))

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _garbage(what: str) -> UpstreamFault:
    return UpstreamFault("garbage", f"The upstream did not answer in HTTP/1.1 as it should: {what}.")
