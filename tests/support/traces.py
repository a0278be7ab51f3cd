"""Traces of how objects are used: the patterns that profiles are chosen by."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from holdshort.profiles.access import GIB, KIB, MIB
from holdshort.profiles.pattern import Event, Kind

Trace = list[Event]


def stage_of(process: str) -> int:
    """Of a process named "a#2" it is 2: it begins when those of the stages before have ended."""
    return int(process.partition("#")[2] or 0)


def grouped(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Ranges and objects that were asked for at once are one."""
    group: list[Event] = []
    for event in events:
        together = event.kind in ("vector", "whole")
        if group and not (together and (event.kind, event.at_s) == (group[0].kind, group[0].at_s)):
            yield group
            group = []
        group.append(event)
    if group:
        yield group


# -- recorded ones ---------------------------------------------------------------------------------------

RECORDED = Path(__file__).parent / "recorded"
"""Of real libraries, by benchmarks/record_traces.py."""


def to_json(events: Sequence[Event]) -> dict[str, Any]:
    """A trace as it is kept."""
    paths = {event.path: event.size for event in events}
    processes = list(dict.fromkeys(event.process for event in events))
    kinds, names = get_args(Kind), list(paths)
    rows = [
        [round(event.at_s * 1000, 1), kinds.index(event.kind), names.index(event.path), event.start, event.length,
         processes.index(event.process)]
        for event in events
    ]  # fmt: skip
    return {"kinds": kinds, "paths": list(paths.items()), "processes": processes, "events": rows}


def from_json(told: Mapping[str, Any]) -> Trace:
    """The same again."""
    kinds, paths, processes = told["kinds"], told["paths"], told["processes"]
    return [
        Event(at_ms / 1000, kinds[kind], *paths[path], start, length, processes[process])
        for at_ms, kind, path, start, length, process in told["events"]
    ]


def _recorded(path: Path) -> Trace:
    return from_json(json.loads(path.read_bytes()))


# -- made ones -------------------------------------------------------------------------------------------


def _whole(path: str, size: int, read: int, process: str = "a", at_s: float = 0.0) -> Iterator[Event]:
    yield Event(at_s, "open", path, size, process=process)
    for start in range(0, size, read):
        yield Event(at_s, "read", path, size, start, min(read, size - start), process)
    yield Event(at_s, "close", path, size, process=process)


def in_order_once() -> Trace:
    return [event for n in range(3) for event in _whole(f"data/dump-{n}.bin", 256 * MIB, MIB)]


def shards_in_every_epoch() -> Trace:
    rng, trace = random.Random(1), Trace()
    shards = [f"data/shard-{n}.bin" for n in range(8)]
    for _ in range(3):
        rng.shuffle(shards)
        trace += [event for path in shards for event in _whole(path, 32 * MIB, MIB)]
    return trace


def samples_at_random() -> Trace:
    rng = random.Random(2)
    trace = [Event(0.0, "open", "data/samples.bin", GIB, process="a")]
    for _ in range(400):
        start = rng.randrange(0, GIB - 64 * KIB)
        trace.append(Event(0.0, "read", "data/samples.bin", GIB, start, 64 * KIB, "a"))
    return trace


def many_small_files() -> Trace:
    trace = Trace()
    for epoch in range(3):
        for n in range(300):
            trace += _whole(f"data/{n % 150 if epoch else n}.jpg", 64 * KIB, 64 * KIB)
    return trace


def ranges_at_once() -> Trace:
    rng, trace = random.Random(3), Trace()
    for step in range(40):
        starts = sorted(rng.randrange(0, GIB - MIB) for _ in range(32))
        trace += [Event(step / 50, "vector", "data/table.bin", GIB, start, 128 * KIB, "a") for start in starts]
    return trace


def columns_of_tables() -> Trace:
    rng, trace = random.Random(4), Trace()
    for n in range(12):
        path, size = f"data/part-{n}.pq", 512 * MIB
        trace += [
            Event(0.0, "open", path, size, process="a"),
            Event(0.0, "read", path, size, size - 64 * KIB, 64 * KIB, "a"),
        ]
        for _ in range(6):
            start = rng.randrange(0, size - 4 * MIB)
            trace.append(Event(0.0, "read", path, size, start, 2 * MIB, "a"))
        trace.append(Event(0.0, "close", path, size, process="a"))
    return trace


def _tensors(path: str, size: int, seed: int, process: str = "a") -> Iterator[Event]:
    rng = random.Random(seed)
    yield Event(0.0, "open", path, size, process=process)
    yield Event(0.0, "read", path, size, 0, 8, process)
    yield Event(0.0, "read", path, size, 8, 200 * KIB, process)
    edges = [*range(MIB, size, 16 * MIB), size]
    tensors = [(a, b - a) for a, b in pairwise(edges)]
    rng.shuffle(tensors)
    for start, length in tensors:
        yield Event(0.0, "read", path, size, start, length, process)
    yield Event(0.0, "close", path, size, process=process)


def weights_by_one() -> Trace:
    return [event for n in range(8) for event in _tensors(f"models/w-{n}.bin", 256 * MIB, n)]


def weights_by_replicas() -> Trace:
    replicas = [list(_tensors("models/w.bin", GIB, 7, process=f"replica-{n}")) for n in range(4)]
    return [event for together in zip(*replicas, strict=True) for event in together]


def one_file_by_all_ranks() -> Trace:
    ranks = [list(_whole("run/state.bin", 512 * MIB, 4 * MIB, process=f"rank-{n}")) for n in range(4)]
    return [event for together in zip(*ranks, strict=True) for event in together]


def checkpoints_written() -> Trace:
    return [Event(60.0 * n, "write", f"run/{n}.bin", GIB, process="a") for n in range(4)]


def a_log_that_grows() -> Trace:
    return [Event(1.0 * n, "append", "run/log.txt", 2 * MIB, process="a") for n in range(20)]


def a_restore() -> Trace:
    return [event for n in range(4) for event in _whole(f"run/rank-{n}.bin", 512 * MIB, 8 * MIB, process=f"rank-{n}")]


def backwards() -> Trace:
    size = 256 * MIB
    trace = [Event(0.0, "open", "data/reversed.bin", size, process="a")]
    return trace + [
        Event(0.0, "read", "data/reversed.bin", size, start, 256 * KIB, "a")
        for start in range(size - 256 * KIB, size - 64 * MIB, -256 * KIB)
    ]


TRACES: dict[str, Callable[[], Trace]] = {
    make.__name__: make
    for make in (
        in_order_once, shards_in_every_epoch, samples_at_random, many_small_files, ranges_at_once, columns_of_tables,
        weights_by_one, weights_by_replicas, one_file_by_all_ranks, checkpoints_written, a_log_that_grows, a_restore,
        backwards,
    )
}  # fmt: skip
"""By name."""
TRACES |= {path.stem: partial(_recorded, path) for path in sorted(RECORDED.glob("*.json"))}
