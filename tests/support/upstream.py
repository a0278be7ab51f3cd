"""An upstream for the gateway that does as a test says, byte by byte."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Exchange:
    """One request that came, and the connection to answer it on.

    Attributes:
        head: everything before the body, as it came.
        gone: set once the gateway has closed the connection.
    """

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""
    gone: threading.Event = field(default_factory=threading.Event)

    async def send(self, *parts: bytes) -> None:
        """Send these bytes as they are, each part by itself."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            await asyncio.sleep(0)

    async def answer(self, body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> None:
        """A whole answer of known length."""
        await self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n".encode() + headers + b"\r\n" + body)

    async def tick(self) -> None:
        """Let others go on for a moment."""
        await asyncio.sleep(0.001)

    async def until_gone(self) -> None:
        """Wait until the gateway has let go of the connection."""
        while await self.reader.read(65536):
            continue
        self.gone.set()

    def reset(self) -> None:
        """Break the connection at once (RST)."""
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


class Upstream:
    """A server on a port of its own, in a thread; `behaves` says what it does with a request."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.behaves: Behaviour = lambda exchange: exchange.answer(b"hello")
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; returns once it does."""
        self._thread.start()
        self._ready.wait(10)

    def stop(self) -> None:
        """End it, with its connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            exchange = Exchange(await reader.readuntil(b"\r\n\r\n"), reader, writer)
            self.exchanges.append(exchange)
            await self._read_body(exchange)
            await self.behaves(exchange)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the gateway went away, as some tests want it to, or the test is over
        finally:
            writer.close()

    async def _read_body(self, exchange: Exchange) -> None:
        lines = exchange.head.lower().split(b"\r\n")
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        if length:
            exchange.body = await exchange.reader.readexactly(length)
        elif b"transfer-encoding: chunked" in lines:
            while size := int(await exchange.reader.readuntil(b"\r\n"), 16):
                exchange.body += (await exchange.reader.readexactly(size + 2))[:-2]
            await exchange.reader.readuntil(b"\r\n")
