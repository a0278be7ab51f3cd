"""How much `auto::` costs against the best of the fixed profiles, by the model and, for some traces, measured.

    python benchmarks/auto.py [--quick] [--trace NAME ...] [--line MB_PER_S ...]

A trace says what processes read, and when. It is replayed once with each profile and once with `auto::`, with an empty
cache, from a store that is 40 ms and 90 MB/s per connection away: by the model of tests/support/simulating.py for all
traces, and for real for those that don't take long, each arm in processes of its own, in turns, in an order of their
own in each repeat, with the machine's memory in hand: a virtual one takes up to ten times as long to write a file for
the first time. Seconds are what all processes of a trace waited.

It is measured over a line that carries 500 MB/s, about as much for each core as a large GPU machine has, so that what
takes time is the network, as in the model: about 25 minutes, with --quick 8. `--line inf` is loopback: there two cores,
with the store on them, are what takes time, which the model does not know.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import reporting
from rows import far_store
from rows.processes import touch
from support.replaying import replay
from support.simulating import World, cost
from support.traces import TRACES

PROFILES = ("training", "serving", "checkpoint", "plain")
ARMS = (*PROFILES, "auto")
MEASURED = (
    "in_order_once", "shards_in_every_epoch", "ranges_at_once", "columns_of_tables", "weights_by_one",
    "one_file_by_all_ranks", "shards_by_tarfile", "epochs_by_workers", "tables_by_pandas", "batches_by_pyarrow",
)  # fmt: skip
LINE_MB_PER_S = 500.0
"""What all connections together may do."""
SEED = 20261124
_TOUCHED_BYTES = 2048 * far_store.MIB  # what a trace reads, kept, and read ahead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure once")
    parser.add_argument("--trace", action="append", help="measure this one only")
    parser.add_argument("--line", type=float, action="append", help="MB/s (default: 500)")
    parser.add_argument("--arm", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        trace, profile, endpoint = given.arm
        sys.stdout.write(json.dumps(replay(TRACES[trace](), profile, far_store.options(endpoint))))
        return
    lines = given.line or [LINE_MB_PER_S]
    traces: dict[str, Any] = {name: {"events": len(make()), **modelled(name, World())} for name, make in TRACES.items()}
    for line in lines:
        world = World(line=min(World.line, line * 1e6))
        for name, runs in measure(given.trace or MEASURED, line, 1 if given.quick else 3).items():
            waited = {arm: reporting.spread([seconds for seconds, _ in runs[arm]]) for arm in ARMS}
            traces[name].setdefault("measured", {})[called(line)] = {
                "waited_s": waited,
                "fetched": {arm: median(got for _, got in runs[arm]) for arm in ARMS},
                "regret": regret({arm: each["median"] for arm, each in waited.items()}),
                "by_the_model": modelled(name, world),
            }
    show(traces, [called(line) for line in lines])
    shown = {"by the model": {name: 100 * each["regret"] for name, each in traces.items()}}
    for line in map(called, lines):
        shown[f"measured, {line}"] = {
            name: 100 * each["measured"][line]["regret"] for name, each in traces.items() if "measured" in each
        }
    reporting.sideways("auto", "What auto:: costs more than the best of the fixed profiles (%)", shown, unit="%")
    reporting.write("auto", {"quick": given.quick, "seed": SEED, "first_byte_ms": far_store.FIRST_BYTE_MS,
                             "mb_per_s_per_connection": far_store.MB_PER_S, "traces": traces})  # fmt: skip


def called(line: float) -> str:
    """How people call it."""
    return "over loopback" if math.isinf(line) else f"over {line:g} MB/s"


def modelled(name: str, world: World) -> dict[str, Any]:
    """What a trace costs by the model, by arm, and what `auto` costs more than the best."""
    trace = TRACES[name]()
    costs = {arm: cost(trace, arm, world) for arm in ARMS}
    return {
        "model": {arm: {"waited_s": each.waited_s, "fetched": each.fetched_bytes, "total_s": each.total_s}
                  for arm, each in costs.items()},
        "regret": regret({arm: each.total_s for arm, each in costs.items()}),
    }  # fmt: skip


def regret(costs: dict[str, float]) -> float:
    """What auto costs more than the best of the fixed profiles, as a share of that."""
    best = min(costs[arm] for arm in PROFILES)
    return costs["auto"] / best - 1 if best > 0.001 else 0.0


def measure(names: Any, line: float, repeats: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """(seconds waited, bytes fetched) of each repeat, by trace and arm."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    order = random.Random(SEED)
    with far_store.store(1024 * far_store.MIB, line) as endpoint:
        for repeat in range(repeats):
            for name in names:
                for arm in order.sample(ARMS, len(ARMS)):
                    touch(_TOUCHED_BYTES)
                    far_store.stats(endpoint)
                    with tempfile.TemporaryDirectory() as cache:
                        seconds = _run(name, arm, endpoint, cache)
                    got = far_store.stats(endpoint)["bytes"]
                    found.setdefault(name, {}).setdefault(arm, []).append((seconds, got))
                    sys.stderr.write(f"{called(line)}, {repeat + 1}/{repeats}, {name}, {arm}: {seconds:.2f} s\n")
    return found


def _run(trace: str, arm: str, endpoint: str, cache: str) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--arm", trace, arm, endpoint],
        check=True, stdout=subprocess.PIPE, env={**os.environ, "HOLDSHORT_CACHE": cache},
    )  # fmt: skip
    return json.loads(done.stdout)


def show(traces: dict[str, Any], lines: Sequence[str]) -> None:
    """Print a table by the model, and one for each line that was measured over."""
    rows = [
        [name, *(f"{each['model'][arm]['total_s']:.2f}" for arm in ARMS), f"{each['regret']:+.1%}"]
        for name, each in traces.items()
    ]
    reporting.table("Seconds by the model", ["trace", *ARMS, "regret"], rows)
    for line in lines:
        rows = [
            [name, *(f"{each['waited_s'][arm]['median']:.2f} ({each['by_the_model']['model'][arm]['waited_s']:.2f})"
                     for arm in ARMS), f"{each['regret']:+.1%}"]
            for name, each in ((name, every["measured"][line]) for name, every in traces.items() if "measured" in every)
        ]  # fmt: skip
        reporting.table(f"Seconds waited {line}, measured (and by the model)", ["trace", *ARMS, "regret"], rows)


if __name__ == "__main__":
    main()
