"""Replays a trace for real: each of its processes reads what it read then, through a profile."""

from __future__ import annotations

import multiprocessing
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from holdshort.profiles.pattern import Event
from support.traces import grouped, stage_of


def object_name(path: str, size: int) -> str:
    """How latency_server.py's object of that size is called."""
    return f"bucket/{path}-of-{size}-bytes"


def replay(trace: Sequence[Event], profile: str, options: Mapping[str, Any]) -> float:
    """The seconds that all processes of a trace waited, through a profile, or through "auto"."""
    context = multiprocessing.get_context("spawn")
    by_process: defaultdict[str, list[Event]] = defaultdict(list)
    for event in trace:
        by_process[event.process].append(event)
    waited_s = 0.0
    for _, names in groupby(sorted(by_process, key=stage_of), key=stage_of):
        together = list(names)
        told = context.SimpleQueue()
        begin = context.Barrier(len(together))
        processes = [
            context.Process(target=_replay, args=(by_process[name], profile, dict(options), begin, told))
            for name in together
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise RuntimeError(f"a reader ended with {process.exitcode}")
        waited_s += sum(told.get() for _ in processes)
    return waited_s


def _replay(events: Sequence[Event], profile: str, options: dict[str, Any], begin: Any, told: Any) -> None:
    from holdshort.storage.filesystem import ProfiledFileSystem

    named = {} if profile == "auto" else {"profile": profile}
    fs = ProfiledFileSystem(target_protocol="s3", target_options=options, **named)
    fs.cat_file("bucket/elsewhere/another", start=0, end=1)  # it has found its credentials and made its client now
    sizes = {event.path: event.size for event in events}
    files: dict[str, Any] = {}
    begin.wait()
    waited_s = before_s = 0.0
    for group in grouped(events):
        event = group[0]
        time.sleep(max(0.0, event.at_s - before_s))
        before_s = event.at_s
        if event.kind in ("write", "append"):
            continue
        if event.kind == "close":
            files.pop(event.path).close()
            continue
        names = [object_name(each.path, sizes[each.path]) for each in group]
        began_s = time.perf_counter()
        if event.kind == "vector":
            ends = [each.start + each.length for each in group]
            got = fs.cat_ranges(names, [each.start for each in group], ends, on_error="raise")
            assert all(len(data) == each.length for data, each in zip(got, group, strict=True))
        elif event.kind == "whole":
            fs.cat(names)
        else:
            if event.kind == "open" or event.path not in files:
                if event.path in files:
                    files.pop(event.path).close()
                files[event.path] = fs.open(names[0])
            if event.kind == "read":
                files[event.path].seek(event.start)
                assert len(files[event.path].read(event.length)) == min(event.length, event.size - event.start)
        waited_s += time.perf_counter() - began_s
    told.put(waited_s)
