"""The embedded broker beside kombu's other transports: speed, idle latency, and what a killed consumer costs.

    python benchmarks/broker.py [--quick]

One script for all, through kombu alone: 200-byte messages, nothing prefetched beyond the message in hand. Redis and
RabbitMQ (with publisher confirms) are started for it when they are installed. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import reporting

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kombu import Connection, Exchange, Queue

from holdshort.jobs.broker import embedded
from support.brokers import RabbitServer, RedisServer

BODY = "x" * 200
LEASE_S = 5.0
GIVE_UP_S = 20.0
_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Kind:
    """A transport under test.

    Attributes:
        messages: how many a round publishes: fewer where each takes long.
        processes: whether several processes can share it.
    """

    name: str
    url: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: int = 2000
    processes: bool = True
    arguments: dict[str, Any] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds")
    quick: bool = parser.parse_args().quick
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder, ExitStack() as servers:
        kinds = transports(Path(folder), servers)
        for _ in range(2 if quick else 5):
            for kind in kinds:
                count = max(200, kind.messages // (10 if quick else 1))
                into = found.setdefault(kind.name, {"publish_per_s": [], "consume_per_s": [], "consume_4_per_s": []})
                round_trip(kind, count, into)
        for kind in kinds:
            found[kind.name]["idle_ms"] = idle(kind, 50 if quick else 300)
            found[kind.name]["killed"] = killed(kind)
    for values in found.values():
        for name in ("publish_per_s", "consume_per_s", "consume_4_per_s"):
            values[name] = reporting.spread(values[name]) if values[name] else None
    show(found)
    reporting.write("broker", {"quick": quick, "lease_s": LEASE_S, "transports": found})
    reporting.bars(
        "broker",
        "Messages through kombu, one process",
        {
            "published per second": {name: v["publish_per_s"]["median"] for name, v in found.items()},
            "consumed and acknowledged per second": {name: v["consume_per_s"]["median"] for name, v in found.items()},
        },
        unit="messages/s",
        log=True,
    )


def transports(folder: Path, servers: ExitStack) -> list[Kind]:
    """All that can be had here."""
    for name in ("queue", "control", "processed", "embedded"):
        (folder / name).mkdir()
    files = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "processed_folder": str(folder / "processed"),
        "control_folder": str(folder / "control"),
        "store_processed": False,
    }
    kinds = [
        Kind("embedded", f"embedded://{folder}/embedded/broker.db", {"lease_s": LEASE_S}, messages=20_000),
        Kind("memory", "memory://", messages=20_000, processes=False),
        Kind("filesystem", "filesystem://", files, messages=2000),
        Kind("sqla", f"sqla+sqlite:///{folder}/sqla.db", messages=1000),
    ]
    redis, rabbit = RedisServer(folder / "redis"), RabbitServer(folder / "rabbitmq")
    if redis.program():
        redis.start()
        servers.callback(redis.kill)
        options = {
            "visibility_timeout": LEASE_S,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "priority_steps": list(range(10)),
            "queue_order_strategy": "priority",
        }
        kinds.append(Kind("redis", redis.url, options, messages=4000))
    if rabbit.program():
        rabbit.start()
        servers.callback(rabbit.close)
        kinds.append(
            Kind("rabbitmq", rabbit.url, {"confirm_publish": True}, messages=4000, arguments={"x-max-priority": 9})
        )
    return kinds


@contextmanager
def connected(kind: Kind) -> Iterator[tuple[Any, Any]]:
    """A connection and the declared queue."""
    embedded.register()
    with Connection(kind.url, transport_options=kind.options) as connection:
        exchange = Exchange("bench", type="direct")
        queue = Queue("bench", exchange, routing_key="bench", queue_arguments=kind.arguments)
        queue(connection.default_channel).declare()
        yield connection, queue


# -- speed -----------------------------------------------------------------------------------------------


def round_trip(kind: Kind, count: int, into: dict[str, list[float]]) -> None:
    """Publish and consume `count` messages, with one consumer and with four processes."""
    with connected(kind) as (connection, queue):
        into["publish_per_s"].append(count / publish(connection, count))
        begin = time.perf_counter()
        consume(connection, queue, count)
        into["consume_per_s"].append(count / (time.perf_counter() - begin))
        if kind.processes:
            publish(connection, count)
    if kind.processes:
        into["consume_4_per_s"].append(count / consume_in_four(kind, count))


def publish(connection: Any, count: int) -> float:
    producer = connection.Producer()
    begin = time.perf_counter()
    for number in range(count):
        producer.publish(BODY, exchange="bench", routing_key="bench", serializer="json", priority=number % 10)
    return time.perf_counter() - begin


def consume(connection: Any, queue: Any, count: int) -> None:
    left = count

    def on_message(message: Any) -> None:
        nonlocal left
        message.ack()
        left -= 1

    with connection.Consumer(queue, on_message=on_message, prefetch_count=1):
        while left:
            connection.drain_events(timeout=GIVE_UP_S)


def consume_in_four(kind: Kind, count: int) -> float:
    """Seconds until four processes have taken `count` messages."""
    taken = _spawn.Value("i", 0)
    go = _spawn.Barrier(5)
    workers = [_spawn.Process(target=_consume_some, args=(kind, count, taken, go)) for _ in range(4)]
    for each in workers:
        each.start()
    go.wait(60)
    begin = time.perf_counter()
    for each in workers:
        each.join()
    return time.perf_counter() - begin


def _consume_some(kind: Kind, count: int, taken: Any, go: Any) -> None:
    with connected(kind) as (connection, queue):

        def on_message(message: Any) -> None:
            message.ack()
            with taken.get_lock():
                taken.value += 1

        with connection.Consumer(queue, on_message=on_message, prefetch_count=1, auto_declare=False) as consumer:
            consumer.cancel()
            go.wait(60)
            consumer.consume()
            while taken.value < count:
                try:
                    connection.drain_events(timeout=0.05)
                except TimeoutError:
                    continue


# -- idle latency ----------------------------------------------------------------------------------------


def idle(kind: Kind, trials: int) -> dict[str, float] | None:
    """Publish → callback of a consumer process that waits (ms); None where processes can't share it."""
    if not kind.processes:
        return None
    ours, theirs = _spawn.Pipe()
    consumer = _spawn.Process(target=_report_arrivals, args=(kind, theirs))
    consumer.start()
    times: list[float] = []
    try:
        assert ours.poll(30)
        ours.recv()
        with connected(kind) as (connection, _):
            producer = connection.Producer()
            for _ in range(trials):
                time.sleep(0.01)  # let the consumer fall idle: that is what is measured
                sent = time.perf_counter()
                producer.publish(BODY, exchange="bench", routing_key="bench", serializer="json")
                if not ours.poll(GIVE_UP_S):
                    break
                times.append((ours.recv() - sent) * 1000)
                if sum(times) > 20_000:
                    break
    finally:
        consumer.kill()
        consumer.join()
    return {"p50": reporting.quantile(times, 0.5), "p99": reporting.quantile(times, 0.99), "trials": len(times)}


def _report_arrivals(kind: Kind, pipe: Pipe) -> None:
    with connected(kind) as (connection, queue):

        def on_message(message: Any) -> None:
            arrived = time.perf_counter()  # CLOCK_MONOTONIC: the same in every process
            message.ack()
            pipe.send(arrived)

        with connection.Consumer(queue, on_message=on_message, prefetch_count=1):
            pipe.send("ready")
            while True:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    continue


# -- a killed consumer -----------------------------------------------------------------------------------


def killed(kind: Kind) -> dict[str, Any] | None:
    """Kill a consumer with a message in its hand: is it delivered to another one, and after how long?"""
    if not kind.processes:
        return None
    with connected(kind) as (connection, queue):
        queue(connection.default_channel).purge()
        ours, theirs = _spawn.Pipe()
        victim = _spawn.Process(target=_take_and_keep, args=(kind, theirs))
        victim.start()
        connection.Producer().publish(BODY, exchange="bench", routing_key="bench", serializer="json")
        assert ours.poll(30), "the victim got nothing"
        assert victim.pid
        other = _spawn.Process(target=_take_and_keep, args=(kind, theirs))
        ours.recv()
        other.start()
        os.kill(victim.pid, signal.SIGKILL)
        begin = time.perf_counter()
        found = ours.recv() if ours.poll(GIVE_UP_S) else None
        seconds = time.perf_counter() - begin
        other.kill()
        other.join()
        victim.join()
        queue(connection.default_channel).purge()
    return {"redelivered": found is not None, "after_s": seconds if found else None, "flagged": bool(found)}


def _take_and_keep(kind: Kind, pipe: Pipe) -> None:
    with connected(kind) as (connection, queue):

        def on_message(message: Any) -> None:
            pipe.send(bool((message.delivery_info or {}).get("redelivered") or message.headers.get("redelivered")))

        with connection.Consumer(queue, on_message=on_message, prefetch_count=1):
            while True:
                try:
                    connection.drain_events(timeout=1)
                except TimeoutError:
                    continue


def show(found: dict[str, dict[str, Any]]) -> None:
    def rate(value: dict[str, float] | None) -> str:
        return "-" if value is None else f"{value['median']:,.0f}"

    def delay(value: dict[str, float] | None) -> str:
        return "-" if value is None else f"{value['p50']:.2f} / {value['p99']:.2f}"

    def fate(value: dict[str, Any] | None) -> str:
        if value is None:
            return "one process only"
        return f"back after {value['after_s']:.1f} s" if value["redelivered"] else f"lost ({GIVE_UP_S:.0f} s waited)"

    reporting.table(
        "Brokers through kombu (medians)",
        ("transport", "publish/s", "consume+ack/s", "4 processes", "idle p50 / p99 ms", "consumer killed"),
        [
            (
                name,
                rate(values["publish_per_s"]),
                rate(values["consume_per_s"]),
                rate(values["consume_4_per_s"]),
                delay(values["idle_ms"]),
                fate(values["killed"]),
            )
            for name, values in found.items()
        ],
    )


if __name__ == "__main__":
    main()
