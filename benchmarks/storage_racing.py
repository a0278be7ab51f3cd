"""Sixteen processes that open the same cold object at nearly the same time, through a cache on disk.

    python benchmarks/storage_racing.py [--quick]

Each reads the whole object and compares what it got with what the store has. The cache is empty when a round
begins; the readers begin a tenth of a second apart. "Fetched" is what the store sent ÷ the size of the object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import reporting
from storage import MIB, PATH, SEED, _options, stats, store

READERS, SIZE, APART_S = 16, 32 * MIB, 0.1
Opened = Callable[[str, str], Any]


def holdshort(endpoint: str, cache: str) -> Any:
    import fsspec

    os.environ["HOLDSHORT_CACHE"] = cache
    return fsspec.open(f"training::s3://{PATH}", s3=_options(endpoint))


def filecache(endpoint: str, cache: str) -> Any:
    import fsspec

    return fsspec.open(f"filecache::s3://{PATH}", s3=_options(endpoint), filecache={"cache_storage": cache})


def simplecache(endpoint: str, cache: str) -> Any:
    import fsspec

    return fsspec.open(f"simplecache::s3://{PATH}", s3=_options(endpoint), simplecache={"cache_storage": cache})


ARMS: dict[str, Opened] = {"holdshort": holdshort, "filecache": filecache, "simplecache": simplecache}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round instead of five")
    for name in ("arm", "endpoint", "cache", "at", "expected"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        read(ARMS[given.arm], given)
        return
    told = measured(rounds=1 if given.quick else 5)
    show(told)
    reporting.write("storage_racing", told)


def measured(rounds: int) -> dict[str, Any]:
    """Figures of all arms, which take turns."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    order = random.Random(SEED)
    with store(SIZE) as endpoint:
        expected = hashlib.sha256(random.Random(SEED).randbytes(MIB) * (SIZE // MIB)).hexdigest()
        for round_ in range(rounds):
            for arm in order.sample(list(ARMS), len(ARMS)):
                one = race(arm, endpoint, expected)
                found[arm].append(one)
                sys.stderr.write(f"round {round_ + 1}/{rounds}, {arm}: {one['wrong']:.0f} of {READERS} wrong\n")
    return {
        "readers": READERS, "size": SIZE, "apart_s": APART_S, "rounds": rounds,
        "arms": {
            arm: {
                "reads": READERS * rounds, "wrong": sum(one["wrong"] for one in each),
                "failed": sum(one["failed"] for one in each),
                "fetched": reporting.spread([one["fetched"] for one in each]),
                "seconds": reporting.spread([one["seconds"] for one in each]),
            }
            for arm, each in found.items()
        },
    }  # fmt: skip


def race(arm: str, endpoint: str, expected: str) -> dict[str, float]:
    """One round of one arm."""
    stats(endpoint)
    with tempfile.TemporaryDirectory() as cache:
        begin = time.time() + 10.0  # all have been imported by then
        readers = [
            subprocess.Popen(
                [sys.executable, __file__, "--arm", arm, "--endpoint", endpoint, "--cache", cache,
                 "--at", str(begin + number * APART_S), "--expected", expected],
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
            for number in range(READERS)
        ]  # fmt: skip
        outputs = [reader.communicate()[0] for reader in readers]
        ended = [json.loads(output) for output in outputs if output]
    return {
        "wrong": sum(not each["right"] for each in ended),
        "failed": READERS - len(ended),
        "fetched": stats(endpoint)["bytes"] / SIZE,
        "seconds": max(each["ended"] for each in ended) - begin,
    }


def read(arm: Opened, given: argparse.Namespace) -> None:
    """What one reader does."""
    opened = arm(given.endpoint, given.cache)
    time.sleep(max(0.0, float(given.at) - time.time()))
    with opened as file:
        right = hashlib.sha256(file.read()).hexdigest() == given.expected
    sys.stdout.write(json.dumps({"right": right, "ended": time.time()}))


def show(told: dict[str, Any]) -> None:
    reporting.table(
        f"{READERS} processes on a cold object of {SIZE // MIB} MiB",
        ("arm", "reads", "wrong", "failed", "fetched", "s"),
        [
            (arm, str(each["reads"]), str(each["wrong"]), str(each["failed"]), f"{each['fetched']['median']:.2f}",
             f"{each['seconds']['median']:.2f}")
            for arm, each in told["arms"].items()
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
