"""How soon batch work stands still once the lane is raised, and what looking at the lane costs.

    python benchmarks/yield_latency.py [--quick]

A real worker embeds documents without a pause. The lane is raised at random moments; its trace says when the hold was
seen and when work stood. On the same host the signal goes through the memory map; by fanout it comes from another
host's lane folder over a real broker and this host's relay (all on this machine, so one clock times both ends).
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import reporting
from bench_worker import POOL, busy_worker, settings_for, trace

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from holdshort.jobs import Settings
from holdshort.workers.lane.live import Live
from holdshort.workers.lane.opening import open_sources
from holdshort.workers.lane.place import LanePlace
from holdshort.workers.lane.reader import LaneReader
from support.brokers import RabbitServer, RedisServer

HOLD_S = 0.07
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer trials")
    quick: bool = parser.parse_args().quick
    trials = 60 if quick else 500
    logging.disable(logging.WARNING)  # each broker is ended after its trials, which the announcer would tell
    found: dict[str, Any] = {"quick": quick, "seed": SEED, "ways": {}}
    with tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder:
        root = Path(folder)
        for way, broker in ways(root):
            with broker as url:
                if url is not None:
                    found["ways"][way] = yields(root / way.replace(" ", "-"), url, way, trials)
        found["cost_us"] = costs(root / "costs", 20_000 if quick else 200_000)
    found["bound_ms"] = settings_for(root / "defaults").pool(POOL).yield_bound_ms
    show(found)
    reporting.write("yield_latency", found)
    groups = {
        f"{part} (ms)": {way: values[part]["p99"] for way, values in found["ways"].items()}
        for part in ("detect", "drain", "total")
    }
    reporting.bars("yield_latency", f"Raised until batch work stands: p99 of {trials} trials", groups, unit="ms")


def ways(root: Path) -> Iterator[tuple[str, Any]]:
    """Each way of the signal, and what gives its broker's URL while it runs ("" for an embedded one of its own)."""

    @contextmanager
    def own() -> Iterator[str | None]:
        yield ""

    @contextmanager
    def server(kind: type[RabbitServer | RedisServer]) -> Iterator[str | None]:
        if kind.program() is None:
            yield None
            return
        with ExitStack() as stack:
            running = kind(root / kind.__name__)
            running.start()
            stack.callback(running.close if isinstance(running, RabbitServer) else running.kill)
            yield running.url

    yield "same host", own()
    yield "fanout embedded", own()
    yield "fanout redis", server(RedisServer)
    yield "fanout rabbitmq", server(RabbitServer)


def yields(home: Path, url: str, way: str, trials: int) -> dict[str, Any]:
    """Raise the lane so often while a worker works; milliseconds."""
    far = way != "same host"
    settings = settings_for(home, broker=url or None, lane_fanout=far)
    elsewhere = settings.model_copy(update={"lane_folder": home / "other-host"}) if far else settings
    rng = random.Random(SEED)
    raised: list[float] = []
    with busy_worker(settings):
        (source,) = open_sources(elsewhere, "bench")
        try:
            for _ in range(trials + 5):
                time.sleep(rng.uniform(0.08, 0.16))
                raised.append(time.monotonic())
                source.hold("a trial")
                time.sleep(HOLD_S)
                source.clear()
            time.sleep(0.3)
        finally:
            source.close()
    events = [event for event in trace(settings) if event.event == "yielded"]
    detect: list[float] = []
    drain: list[float] = []
    missed = 0
    for at in raised[5:]:  # the first ones are to warm up
        event = next((e.what for e in events if at <= e.what["still"] <= at + HOLD_S + 0.01), None)
        if event is None:
            missed += 1
            continue
        detect.append((event["seen"] - at) * 1000)
        drain.append((event["still"] - event["seen"]) * 1000)
    total = [a + b for a, b in zip(detect, drain, strict=True)]
    return {
        "trials": len(total), "missed": missed,
        **{name: quantiles(values) for name, values in (("detect", detect), ("drain", drain), ("total", total))},
    }  # fmt: skip


def costs(home: Path, number: int) -> dict[str, float]:
    """Microseconds of a reading and of a live request, the median of seven rounds each."""
    settings: Settings = settings_for(home)
    (source,) = open_sources(settings, "chat", pools=[POOL])
    reader = LaneReader(LanePlace.of(settings), POOL)
    live = Live([source])

    def request() -> None:
        with live:
            pass

    found = {
        "reading, nothing changed": timeit.repeat(reader.reading, number=number, repeat=7),
        "live request": timeit.repeat(request, number=number // 10, repeat=7),
    }
    source.close()
    return {
        name: median(times) / (number if name.startswith("reading") else number // 10) * 1e6
        for name, times in found.items()
    }


def quantiles(values: list[float]) -> dict[str, float]:
    return {
        "p50": reporting.quantile(values, 0.5), "p99": reporting.quantile(values, 0.99), "max": max(values),
    }  # fmt: skip


def show(found: dict[str, Any]) -> None:
    rows = [
        (
            way, values["trials"], values["missed"],
            *(
                " / ".join(f"{values[part][key]:.1f}" for key in ("p50", "p99", "max"))
                for part in ("detect", "drain", "total")
            ),
        )
        for way, values in found["ways"].items()
    ]  # fmt: skip
    title = f"Raised until batch work stands (ms; p50 / p99 / max; the bound is {found['bound_ms']:g})"
    reporting.table(title, ("way", "trials", "missed", "detect", "drain", "total"), rows)
    reporting.table("Cost (µs)", ("what", "median"), [(name, f"{cost:.2f}") for name, cost in found["cost_us"].items()])


if __name__ == "__main__":
    main()
