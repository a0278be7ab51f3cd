"""What the gateway adds to a request, to each chunk of a stream, and how many streams it carries.

    python benchmarks/gateway.py [--quick]

Three processes on one machine: an upstream that answers at once, `holdshort gateway` as it ships, and this client.
Direct requests and requests through the gateway take turns, request by request, in an order that changes. For latency,
arrivals are open-loop: they do not wait for earlier answers, and are timed from the moment at which they were due.
Each chunk carries the moment at which it was sent, so one clock times its whole way. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import uvloop

import reporting

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.gateway import GatewayProcess
from support.holdshort import settings_for

SEED = 7
WAYS = ("direct", "gateway")
PACE_MS = 20
CLIENTS = (1, 16, 64)
SHARES = (("p50", 0.5), ("p99", 0.99))
MEASURED = (
    ("small", "small answer"), ("first_chunk", "first chunk of a stream"), ("gap", f"gap, sent every {PACE_MS} ms"),
    ("chunk", "way of a chunk"),
)  # fmt: skip
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % (b"hold short of runway two seven " * 8)
ANSWER = b'{"id": "chatcmpl-1", "object": "chat.completion", "text": "%s"}' % (b"x" * 200)
_CHUNK = b'data: {"at": %020d, "choices": [{"delta": {"content": " runway"}}], "model": "m", "object": "chunk"}\n\n'
_AT = len(b'data: {"at": ')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer requests and repeats")
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)  # run as the upstream's process
    arguments = parser.parse_args()
    if arguments.upstream:
        uvloop.run(serve_upstream())
        return
    quick: bool = arguments.quick
    with tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder, upstream() as upstream_port:
        home = Path(folder)
        settings = settings_for(home, f"embedded://{home}/broker.db")
        gateway = GatewayProcess(settings, home, [], {"upstream": f"http://127.0.0.1:{upstream_port}"})
        try:
            ports = {"direct": upstream_port, "gateway": gateway.port}
            found = {"quick": quick, "seed": SEED, **uvloop.run(measure(ports, gateway.process.pid, quick))}
        finally:
            gateway.end()
    show(found)
    reporting.write("gateway", found)
    groups = {
        f"{what} (ms)": {f"{way} {share}": found[key][way][share]["median"] for share, _ in SHARES for way in WAYS}
        for key, what in MEASURED
        if key != "gap"
    }
    reporting.bars("gateway", "Latency direct and through the gateway", groups, unit="ms")


async def measure(ports: dict[str, int], gateway_pid: int, quick: bool) -> dict[str, Any]:
    repeats = 3 if quick else 7
    rng = random.Random(SEED)
    runs: dict[str, dict[str, list[list[float]]]] = {key: {way: [] for way in WAYS} for key, _ in MEASURED}
    rates: dict[int, dict[str, list[float]]] = {clients: {way: [] for way in WAYS} for clients in CLIENTS}
    for repeat in range(repeats + 1):
        clients = {way: Client(port) for way, port in ports.items()}
        answers = await in_turns(rng, 100, 200 if quick else 500, {way: clients[way].small for way in WAYS})
        streams = await in_turns(
            rng, 20, 20 if quick else 50, {way: partial(clients[way].stream, 25, PACE_MS) for way in WAYS}
        )
        per_s = {
            (many, way): await closed_loop(many, 640 if quick else 1920, clients[way].small)
            for many in CLIENTS
            for way in rng.sample(WAYS, len(WAYS))
        }
        for client in clients.values():
            client.close()
        if repeat == 0:  # to warm up
            continue
        for way in WAYS:
            runs["small"][way].append(answers[way])
            runs["first_chunk"][way].append([waits[0] for waits, _ in streams[way]])
            runs["gap"][way].append([b - a for waits, _ in streams[way] for a, b in pairwise(waits)])
            runs["chunk"][way].append([way_ms for _, ways in streams[way] for way_ms in ways[1:]])
            for many in CLIENTS:
                rates[many][way].append(per_s[many, way])
    process = psutil.Process(gateway_pid)
    many_streams: list[dict[str, Any]] = []
    for streams_at_once in (200,) if quick else (200, 1000):
        for way in WAYS:
            held = await held_open(ports[way], streams_at_once, process)
            many_streams.append({"way": way, "streams": streams_at_once, **held})
    return {
        **{key: beside(ways) for key, ways in runs.items()},
        "requests_per_s": {
            str(many): {way: reporting.spread(values) for way, values in ways.items()} for many, ways in rates.items()
        },
        "many": many_streams,
    }


# -- load ------------------------------------------------------------------------------------------------


class Client:
    """Keeps its connections, as OpenAI's clients do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def small(self, due: float | None = None) -> float:
        """A request with a small answer of known length; milliseconds from when it was due to its last byte."""
        begin = time.monotonic() if due is None else due
        reader, writer = await self._connection()
        writer.write(_request("/v1/chat/completions"))
        await _head(reader)
        await reader.readexactly(len(ANSWER))
        took = (time.monotonic() - begin) * 1000
        self._free.append((reader, writer))
        return took

    async def stream(self, chunks: int, pace_ms: int, due: float) -> tuple[list[float], list[float]]:
        """A streamed answer; milliseconds to each chunk from when the request was due, and from its own sending."""
        begin = due * 1e9
        reader, writer = await self._connection()
        writer.write(_request(f"/stream/{chunks}/{pace_ms}"))
        await _head(reader)
        waits: list[float] = []
        ways: list[float] = []
        while size := int(await reader.readline(), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            now = time.monotonic_ns()
            for line in data.split(b"\n\n")[:-1]:
                waits.append((now - begin) / 1e6)
                ways.append((now - int(line[_AT : _AT + 20])) / 1e6)
        await reader.readline()
        if len(ways) != chunks:
            raise RuntimeError(f"{len(ways)} chunks of {chunks} came")
        self._free.append((reader, writer))
        return waits, ways

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)


async def open_loop(
    rng: random.Random, per_s: float, asks: Sequence[Callable[[float], Coroutine[Any, Any, Any]]]
) -> list[Any]:
    """What these requests gave, that arrive at random at this rate whatever became of the earlier ones."""
    tasks: list[asyncio.Task[Any]] = []
    due = time.monotonic()
    for ask in asks:
        due += rng.expovariate(per_s)
        await asyncio.sleep(max(0.0, due - time.monotonic() - _TIMER_S))
        while time.monotonic() < due:  # noqa: ASYNC110 - a clock is no event
            await asyncio.sleep(0)
        tasks.append(asyncio.create_task(ask(due)))
    return await asyncio.gather(*tasks)


async def in_turns(
    rng: random.Random, per_s: float, pairs: int, asks: dict[str, Callable[[float], Coroutine[Any, Any, Any]]]
) -> dict[str, list[Any]]:
    """What an open loop of so many requests of each way gave, in pairs of changing order."""
    order = [way for _ in range(pairs) for way in rng.sample(list(asks), len(asks))]
    found = await open_loop(rng, per_s, [asks[way] for way in order])
    return {way: [one for name, one in zip(order, found, strict=True) if name == way] for way in asks}


async def closed_loop(clients: int, count: int, ask: Callable[[], Awaitable[Any]]) -> float:
    """Requests per second of so many clients that each ask again at once."""

    async def client() -> None:
        for _ in range(count // clients):
            await ask()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return count // clients * clients / (time.perf_counter() - begin)


async def held_open(port: int, streams: int, gateway: psutil.Process) -> dict[str, Any]:
    """So many streams at once, begun within four seconds, five chunks a second each; what that costs the gateway."""
    client = Client(port)
    cpu = sum(gateway.cpu_times()[:2])
    begin = time.perf_counter()
    rng = random.Random(SEED)
    found = await open_loop(rng, streams / 4, [partial(client.stream, 40, 200)] * streams)
    took_s = time.perf_counter() - begin
    client.close()
    ways: list[float] = [way for _, ways in found for way in ways]
    gaps: list[float] = [b - a for waits, _ in found for a, b in pairwise(waits)]
    return {
        "chunks": len(ways),
        "seconds": took_s,
        "chunk_ms": {name: reporting.quantile(ways, share) for name, share in SHARES} | {"max": max(ways)},
        "gap_ms": {name: reporting.quantile(gaps, share) for name, share in SHARES} | {"max": max(gaps)},
        "gateway_cpu_share": (sum(gateway.cpu_times()[:2]) - cpu) / took_s,
        "gateway_rss_mb": gateway.memory_info().rss / 2**20,
    }


_TIMER_S = 0.002
"""Timers of the event loop count in milliseconds: the last ones before a request is due are waited out awake."""


def _request(path: str) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-bench\r\n"
        f"User-Agent: bench\r\nAccept: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


async def _head(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode())


# -- the upstream ----------------------------------------------------------------------------------------


@contextmanager
def upstream() -> Iterator[int]:
    """The port of an upstream process."""
    process = subprocess.Popen([sys.executable, __file__, "--upstream"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


async def serve_upstream() -> None:
    """A small answer for each request, or /stream/CHUNKS/PACE_MS."""
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(BODY))
            _, kind, *rest = head.split(b" ", 2)[1].split(b"/")
            if kind != b"stream":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
                continue
            chunks, pace_s = int(rest[0]), int(rest[1]) / 1000
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            due = loop.time()
            for _ in range(chunks):
                data = _CHUNK % time.monotonic_ns()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                due += pace_s
                await asyncio.sleep(due - loop.time())
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


# -- what was found --------------------------------------------------------------------------------------


def beside(runs: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Quantiles of each way, and what the gateway adds to them, taken pair by pair."""
    found: dict[str, Any] = {}
    for way in WAYS:
        found[way] = {name: reporting.spread(_quantiles(runs[way], share)) for name, share in SHARES}
    found["added"] = {
        name: reporting.spread([b - a for a, b in zip(*(_quantiles(runs[way], share) for way in WAYS), strict=True)])
        for name, share in SHARES
    }
    found["samples_per_run"] = median(len(run) for run in runs["direct"])
    return found


def _quantiles(runs: list[list[float]], share: float) -> list[float]:
    return [reporting.quantile(run, share) for run in runs]


def show(found: dict[str, Any]) -> None:
    rows = [
        (
            what, share,
            *(f"{found[key][way][share]['median']:.2f}" for way in WAYS),
            "{median:.2f} ({min:.2f} to {max:.2f})".format(**found[key]["added"][share]),
        )
        for key, what in MEASURED
        for share, _ in SHARES
    ]  # fmt: skip
    reporting.table("Latency (ms; medians of the runs)", ("what", "", "direct", "gateway", "added (min to max)"), rows)
    rates = [
        (clients, *("{median:,.0f} ({min:,.0f} to {max:,.0f})".format(**ways[way]) for way in WAYS))
        for clients, ways in found["requests_per_s"].items()
    ]
    reporting.table("Small requests per second, each client asks again at once", ("clients", *WAYS), rates)
    reporting.table(
        "Streams at once, 5 chunks a second each (ms)",
        ("streams", "way", "gap p50", "p99", "max", "chunk's way p50", "p99", "max", "gateway's CPU", "MiB"),
        [
            (
                one["streams"], one["way"],
                *(f"{one[key][share]:.2f}" for key in ("gap_ms", "chunk_ms") for share in ("p50", "p99", "max")),
                f"{one['gateway_cpu_share']:.0%}" if one["way"] == "gateway" else "–",
                f"{one['gateway_rss_mb']:.0f}" if one["way"] == "gateway" else "–",
            )
            for one in found["many"]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
