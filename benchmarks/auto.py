"""How much `auto::` costs against the best of the fixed profiles, by the model and, for some traces, measured.

    python benchmarks/auto.py [--quick] [--trace NAME ...]

A trace says what processes read, and when. It is replayed once with each profile and once with `auto::`, with an empty
cache, from a store that is 40 ms and 90 MB/s per connection away: by the model of tests/support/simulating.py for all
traces, and for real for those that don't take long, each arm in processes of its own, in turns, in an order of their
own in each repeat, with the machine's memory in hand: a virtual one takes up to ten times as long to write a file for
the first time. Seconds are what all processes of a trace waited. It takes about 25 minutes, with --quick 8.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import reporting
from rows import far_store
from rows.processes import touch
from support.replaying import replay
from support.simulating import cost
from support.traces import TRACES

PROFILES = ("training", "serving", "checkpoint", "plain")
ARMS = (*PROFILES, "auto")
MEASURED = (
    "in_order_once", "shards_in_every_epoch", "ranges_at_once", "columns_of_tables", "weights_by_one",
    "one_file_by_all_ranks", "shards_by_tarfile", "epochs_by_workers", "tables_by_pandas", "batches_by_pyarrow",
)  # fmt: skip
SEED = 20261124
_TOUCHED_BYTES = 2048 * far_store.MIB  # what a trace reads, kept, and read ahead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure once")
    parser.add_argument("--trace", action="append", help="measure this one only")
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        trace, profile, endpoint = given.arm
        sys.stdout.write(json.dumps(replay(TRACES[trace](), profile, far_store.options(endpoint))))
        return
    measured = measure(given.trace or MEASURED, 1 if given.quick else 3)
    traces: dict[str, Any] = {}
    for name, make in TRACES.items():
        trace = make()
        model = {arm: cost(trace, arm) for arm in ARMS}
        traces[name] = {
            "events": len(trace),
            "model": {arm: {"waited_s": each.waited_s, "fetched": each.fetched_bytes, "total_s": each.total_s}
                      for arm, each in model.items()},
            "regret": regret({arm: each.total_s for arm, each in model.items()}),
        }  # fmt: skip
        if name in measured:
            runs = measured[name]
            waited = {arm: reporting.spread([seconds for seconds, _ in runs[arm]]) for arm in ARMS}
            traces[name]["measured"] = waited
            traces[name]["measured_fetched"] = {arm: median(got for _, got in runs[arm]) for arm in ARMS}
            traces[name]["measured_regret"] = regret({arm: each["median"] for arm, each in waited.items()})
    show(traces)
    shown = {
        "by the model": {name: 100 * each["regret"] for name, each in traces.items()},
        "measured": {name: 100 * each["measured_regret"] for name, each in traces.items() if "measured" in each},
    }
    reporting.sideways("auto", "What auto:: costs more than the best of the fixed profiles (%)", shown, unit="%")
    reporting.write("auto", {"quick": given.quick, "seed": SEED, "first_byte_ms": far_store.FIRST_BYTE_MS,
                             "mb_per_s_per_connection": far_store.MB_PER_S, "traces": traces})  # fmt: skip


def regret(costs: dict[str, float]) -> float:
    """What auto costs more than the best of the fixed profiles, as a share of that."""
    best = min(costs[arm] for arm in PROFILES)
    return costs["auto"] / best - 1 if best > 0.001 else 0.0


def measure(names: Any, repeats: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(seconds waited, bytes fetched) of each repeat, by trace and arm."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    order = random.Random(SEED)
    with far_store.store(1024 * far_store.MIB) as endpoint:
        for repeat in range(repeats):
            for name in names:
                for arm in order.sample(ARMS, len(ARMS)):
                    touch(_TOUCHED_BYTES)
                    far_store.stats(endpoint)
                    with tempfile.TemporaryDirectory() as cache:
                        seconds = _run(name, arm, endpoint, cache)
                    got = far_store.stats(endpoint)["bytes"]
                    found.setdefault(name, {}).setdefault(arm, []).append((seconds, got))
                    sys.stderr.write(f"repeat {repeat + 1}/{repeats}, {name}, {arm}: {seconds:.2f} s\n")
    return found


def _run(trace: str, arm: str, endpoint: str, cache: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--arm", trace, arm, endpoint],
        check=True, stdout=subprocess.PIPE, env={**os.environ, "HOLDSHORT_CACHE": cache},
    )  # fmt: skip
    return json.loads(done.stdout)


def show(traces: dict[str, Any]) -> None:
    """Print both tables."""
    rows = [
        [name, *(f"{each['model'][arm]['total_s']:.2f}" for arm in ARMS), f"{each['regret']:+.1%}"]
        for name, each in traces.items()
    ]
    reporting.table("Seconds by the model", ["trace", *ARMS, "regret"], rows)
    rows = [
        [name, *(f"{each['measured'][arm]['median']:.2f} ({each['model'][arm]['waited_s']:.2f})" for arm in ARMS),
         f"{each['measured_regret']:+.1%}"]
        for name, each in traces.items() if "measured" in each
    ]  # fmt: skip
    reporting.table("Seconds waited, measured (and by the model)", ["trace", *ARMS, "regret"], rows)


if __name__ == "__main__":
    main()
