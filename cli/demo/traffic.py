"""Chat traffic: requests at times that are fixed beforehand, and when each token of their answers came.

Open-loop: a request is sent at its time whether or not earlier ones were answered, and is timed from that time. So a
server that stalls can't hide it by holding up the requests that would have shown it.

Runs as a process of its own (`python -m holdshort.cli.demo.traffic`): asks come in as a line of JSON, answers go out.
It leaves when its parent does.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

_PIECE = b'"content":"'
_LAST = b"data: [DONE]"

_TOPICS = (
    "the sea", "a runway at night", "why the sky is blue", "three cities", "a quiet library", "how bread is made",
    "an old radio", "the first day of spring", "a train that is late", "what a queue is",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: when (seconds from the start), what, and for how many tokens."""

    at_s: float
    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Answered:
    """How one request went. Times are monotonic seconds of the host.

    Attributes:
        scheduled: when it was to be sent.
        tokens: when each piece of its answer came.
        error: why it has no whole answer; "" if it has.
    """

    scheduled: float
    tokens: list[float]
    error: str = ""

    @property
    def first_s(self) -> float | None:
        """From the scheduled time to the first token."""
        return self.tokens[0] - self.scheduled if self.tokens else None

    @property
    def gaps_s(self) -> list[float]:
        """Between each two tokens."""
        return [later - earlier for earlier, later in pairwise(self.tokens)]


def bursts(seed: int, *, seconds: float, answer_s: float, burst: int, idle_s: float, tokens: int) -> list[Ask]:
    """Bursts of requests one after the other, with idle gaps between, the same for the same seed.

    Args:
        answer_s: how long the server takes for an answer when it is undisturbed; requests come a little slower.
        burst: requests per burst.
        idle_s: mean of the gap between two bursts.
    """
    rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    asks: list[Ask] = []
    now = rng.uniform(0.2, 0.5)
    while True:
        for _ in range(burst):
            if now + answer_s > seconds:
                return asks
            # A number makes each prompt unlike the others, so that no answer comes from a cache.
            asks.append(Ask(now, f"Write a few sentences about {rng.choice(_TOPICS)} ({rng.random():.6f}).", tokens))
            now += answer_s * rng.uniform(1.0, 1.5)
        now += idle_s * rng.uniform(0.6, 1.4)


def drive(url: str, asks: Sequence[Ask], *, python: str = sys.executable) -> Driving:
    """Begin to send these requests to an OpenAI-compatible server, from a process of their own."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [python, "-m", "holdshort.cli.demo.traffic", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return Driving(process, asks)


class Driving:
    """Traffic under way."""

    def __init__(self, process: subprocess.Popen[bytes], asks: Sequence[Ask]) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([asdict(ask) for ask in asks]).encode() + b"\n")
            process.stdin.flush()
            self.started = float(process.stdout.readline())
            """When it began, in monotonic seconds."""
        except BaseException:
            self.end()
            raise

    def result(self) -> list[Answered]:
        """Wait for the last answer, and return all."""
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.read())
        self.end()
        return [Answered(**answered) for answered in found]

    def end(self) -> None:
        """Stop it, if it still runs."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Pieces:
    """Counts the pieces of an answer in a stream of events, however that is cut into chunks.

    One event is one token. Reading its JSON would cost more than it tells: two lanes share the machine.
    """

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, chunk: bytes) -> int:
        """How many came with this chunk."""
        known = self._tail[-len(_PIECE) + 1 :]  # too short for a piece that was counted before
        self._tail = (self._tail + chunk)[-64:]
        return (known + chunk).count(_PIECE)

    @property
    def has_ended(self) -> bool:
        """Whether the stream said so."""
        return _LAST in self._tail


async def _send_all(url: str, asks: Sequence[Ask]) -> list[Answered]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(trust_env=False, limits=limits, timeout=httpx.Timeout(300.0)) as client:
        model = (await client.get(f"{url}/v1/models")).json()["data"][0]["id"]
        start = time.monotonic()
        sys.stdout.write(f"{start}\n")
        sys.stdout.flush()
        tasks: list[asyncio.Task[Answered]] = []
        for ask in asks:
            await asyncio.sleep(max(0.0, start + ask.at_s - time.monotonic()))
            tasks.append(asyncio.create_task(_send(client, url, model, ask, start + ask.at_s)))
        return list(await asyncio.gather(*tasks))


async def _send(client: Any, url: str, model: str, ask: Ask, scheduled: float) -> Answered:
    import httpx

    body = {
        "model": model,
        "messages": [{"role": "user", "content": ask.prompt}],
        "max_tokens": ask.tokens,
        "temperature": 0.0,
        "stream": True,
        "cache_prompt": False,
    }
    came: list[float] = []
    pieces = Pieces()
    try:
        async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                return Answered(scheduled, came, f"status {response.status_code}")
            async for chunk in response.aiter_raw():
                now = time.monotonic()
                came.extend([now] * pieces.feed(chunk))
    except httpx.HTTPError as error:
        return Answered(scheduled, came, str(error) or type(error).__name__)
    return Answered(scheduled, came, "" if pieces.has_ended else "its answer has no end")


def main() -> None:
    """Read asks from standard input, send them to the URL that is the argument, write what came of them."""
    from ...workers.parent import leave_with_parent

    asks = [Ask(**ask) for ask in json.loads(sys.stdin.buffer.readline())]
    leave_with_parent()
    answered = asyncio.run(_send_all(sys.argv[1], asks))
    sys.stdout.write(json.dumps([asdict(one) for one in answered]))


if __name__ == "__main__":
    main()
