"""The upstream as a whole: connections that are kept for the next request, and whether it is there."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

from ...jobs.settings import GatewaySettings
from .connection import Connection, Limits
from .faults import UpstreamFault

_KEEP_S = 3.0
"""How long a connection is kept unused: less than the 5 s after which uvicorn, hence vLLM, closes it."""
_FRESH_S = 2.0
"""How long the upstream is believed to be there after it took a connection or answered."""


class Upstream:
    """Lends connections to one upstream. Belongs to one event loop.

    Attributes:
        authority: its host and port, for the Host header.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        parts = urlsplit(settings.upstream)
        self.authority = parts.netloc.encode()
        self._url = settings.upstream
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._keeps = parts.scheme == "https"
        self._tls = parts.scheme == "https"
        self._connect_timeout_s = settings.connect_timeout_s
        self._limits = Limits(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.max_header_bytes)
        self._all: set[Connection] = set()
        self._free: dict[Connection, asyncio.TimerHandle] = {}
        self._seen_at = float("-inf")
        self._asking: asyncio.Lock | None = None

    async def lend(self) -> Connection:
        """A connection for one exchange; `give_back` it. Raises UpstreamFault when there is none to be had."""
        while self._free:
            connection, timer = self._free.popitem()  # the one used last, so that the others may end
            timer.cancel()
            if connection.can_be_used_again:
                return connection
        return await self._connect()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request if it is fit for that, else close it."""
        if self._keeps and connection.can_be_used_again:
            self._seen_at = time.monotonic()
            self._keep(connection)
        else:
            connection.abort()

    async def is_reachable(self) -> bool:
        """Whether it took a connection or answered lately; if that is not known, it is tried."""
        if self._asking is None:
            self._asking = asyncio.Lock()
        async with self._asking:
            if time.monotonic() - self._seen_at < _FRESH_S:
                return True
            try:
                connection = await self._connect()
            except UpstreamFault:
                return False
            connection.abort()
            return True

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._all):
            connection.abort()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, self._limits, self._lost),
                    self._host,
                    self._port,
                    ssl=True if self._tls else None,
                )
        except TimeoutError:
            raise UpstreamFault(
                "connect_timeout",
                f"The upstream {self._url} took no connection within {self._connect_timeout_s:g} s. "
                "Look whether it runs and whether the network lets the gateway reach it.",
            ) from None
        except OSError as error:
            self._seen_at = float("-inf")
            raise UpstreamFault(
                "unreachable",
                f"The upstream {self._url} can't be reached: {error.strerror or error}. "
                "Look whether it runs and whether gateway.upstream names its host and port.",
            ) from error
        self._all.add(connection)
        self._seen_at = time.monotonic()
        return connection

    def _keep(self, connection: Connection) -> None:
        self._free[connection] = asyncio.get_running_loop().call_later(_KEEP_S, self._expire, connection)

    def _expire(self, connection: Connection) -> None:
        if self._free.pop(connection, None) is not None:
            connection.abort()

    def _lost(self, connection: Connection) -> None:
        self._all.discard(connection)
        timer = self._free.pop(connection, None)
        if timer is not None:
            timer.cancel()
