"""What batch work gets done under a lane that flips faster and faster.

    python benchmarks/thrash.py [--quick]

A square wave of holds, half of the time, with periods from 10 down to 0.2 times what it takes to yield and to go on.
Goodput is the rate of rows under the wave beside the rate on a clear lane just before and after it. It should not fall
more than a tenth below the share of the time that the wave leaves; preemptions stay within the pool's bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import reporting
from bench_worker import POOL, Event, busy_worker, settings_for, trace
from holdshort.jobs import Settings
from holdshort.workers.lane.opening import open_sources
from holdshort.workers.lane.source import Source
from holdshort.workers.runner import Limits

TIMES = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter waves, one repeat")
    quick: bool = parser.parse_args().quick
    seconds, repeats = (4.0, 1) if quick else (6.0, 3)
    with tempfile.TemporaryDirectory(prefix="holdshort-bench-") as folder:
        # One thread for the model, so that the process that makes the wave has a core of its own.
        settings = settings_for(Path(folder) / "home", threads=1)
        with busy_worker(settings):
            (source,) = open_sources(settings, "wave")
            turnaround_s = turnaround(settings, source)
            bound = Limits(yield_bound_s=settings.pool(POOL).yield_bound_ms / 1000).lane.preemptions_per_minute
            rounds = [
                one(settings, source, times, turnaround_s, seconds, bound) for _ in range(repeats) for times in TIMES
            ]
            source.close()
    found: dict[str, Any] = {
        "quick": quick,
        "turnaround_ms": turnaround_s * 1000,
        "bound_per_minute": bound,
        "waves": {str(times): summary([r for r in rounds if r["times"] == times]) for times in TIMES},
    }
    show(found)
    reporting.write("thrash", found)
    waves = found["waves"].items()
    reporting.bars(
        "thrash",
        f"Goodput under a square wave (period in units of {turnaround_s * 1000:.0f} ms, to yield and go on)",
        {
            "goodput": {f"{times}×": values["goodput"]["median"] for times, values in waves},
            "left by the wave": {f"{times}×": values["left"]["median"] for times, values in waves},
            "preemptions ÷ allowed": {
                f"{times}×": values["preemptions"]["max"] / values["allowed"]["min"] for times, values in waves
            },
        },
        unit="share of the rate on a clear lane",
    )


def turnaround(settings: Settings, source: Source) -> float:
    """What it takes to yield, plus what it takes to go on: seconds, medians of 20."""
    cleared: list[float] = []
    for _ in range(20):
        time.sleep(0.25)
        source.hold("to measure")
        time.sleep(0.15)
        cleared.append(time.monotonic())
        source.clear()
    time.sleep(0.5)
    events = trace(settings)
    to_yield = [e.what["still"] - e.what["raised"] for e in events if e.event == "yielded"]
    to_go_on: list[float] = []
    for at in cleared:
        first = next((e for e in events if e.event == "ran" and e.at - e.what["seconds"] >= at), None)
        if first is not None:
            to_go_on.append(first.at - first.what["seconds"] - at)
    return median(to_yield) + median(to_go_on)


def one(
    settings: Settings, source: Source, times: float, turnaround_s: float, seconds: float, bound: int
) -> dict[str, float]:
    """One wave, with a clear lane before and after it for as long."""
    half_s = times * turnaround_s / 2
    begin = time.monotonic()
    time.sleep(seconds / 2)
    start = time.monotonic()
    clear_s = wave(source, half_s, seconds)
    stop = time.monotonic()
    time.sleep(seconds / 2)
    end = time.monotonic()
    time.sleep(0.2)  # until the trace is written
    events = trace(settings)
    free = (rows(events, begin, start) + rows(events, stop, end)) / (start - begin + end - stop)
    yields = sum(1 for e in events if e.event == "yielded" and start <= e.at < stop)
    return {
        "times": times,
        "goodput": rows(events, start, stop) / (stop - start) / free,
        "left": clear_s / (stop - start),
        "preemptions": yields,
        # What a minute allows, less than a minute may have at once and at the rate at which the rest is earned.
        "allowed": bound / 30 + bound * 29 / 30 / 60 * (stop - start) + 1,
        "lost": sum(e.what["seconds"] for e in events if e.event == "lost" and start <= e.at < stop) / (stop - start),
    }


def wave(source: Source, half_s: float, seconds: float) -> float:
    """Flip the lane; returns for how long it was clear."""
    end = time.monotonic() + seconds
    at = time.monotonic()
    clear_s = 0.0
    while at < end:
        source.hold("a wave")
        at += half_s
        time.sleep(max(0.0, at - time.monotonic()))
        lowered = time.monotonic()
        source.clear()
        at = max(at, lowered - half_s) + half_s
        time.sleep(max(0.0, at - time.monotonic()))
        clear_s += time.monotonic() - lowered
    return clear_s


def rows(events: list[Event], start: float, end: float) -> int:
    """Rows answered in a span of time."""
    return sum(e.what["rows"] for e in events if e.event == "finished" and start <= e.at < end)


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    return {
        name: reporting.spread([found[name] for found in rounds])
        for name in ("goodput", "left", "preemptions", "allowed", "lost")
    }


def show(found: dict[str, Any]) -> None:
    table: list[tuple[object, ...]] = []
    for times, values in found["waves"].items():
        goodput, left = values["goodput"], values["left"]["median"]
        table.append(
            (
                f"{times}×", f"{float(times) * found['turnaround_ms']:.1f}",
                "{median:.2f} ({min:.2f} to {max:.2f})".format(**goodput), f"{left:.2f}",
                "yes" if goodput["median"] >= left - 0.1 else "NO",
                f"{values['preemptions']['max']:.0f} of {values['allowed']['min']:.0f}",
                f"{values['lost']['median']:.1%}",
            )
        )  # fmt: skip
    reporting.table(
        f"Square wave; to yield and go on takes {found['turnaround_ms']:.1f} ms; "
        f"at most {found['bound_per_minute']} preemptions per minute",
        ("period", "ms", "goodput", "left", "within a tenth", "preemptions (most of what is allowed)", "thrown away"),
        table,
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
