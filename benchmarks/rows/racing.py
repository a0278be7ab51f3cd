"""Sixteen processes that read the same cold object through one cache on disk, begun a tenth of a second apart.

Each reads the whole object and compares what it got with what the store has. The cache is empty when a race begins.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

from .far_store import MIB, PATH, options, stats, store
from .processes import started
from .row import (
    BUDGET,
    CPU_S,
    FETCHED,
    HELD,
    PEAK,
    REQUESTS,
    SECONDS,
    Aim,
    Arm,
    Column,
    Given,
    Measure,
    Row,
    Run,
    Work,
    kept,
)

READERS, SIZE, APART_S = 16, 32 * MIB, 0.1
GROUP = f"{READERS} readers"


def _holdshort(given: Given) -> Work:
    import fsspec

    return _reads(fsspec.open(f"training::s3://{PATH}", s3=options(given["endpoint"])), given)


def _filecache(given: Given) -> Work:
    return _cached(given, "filecache")


def _simplecache(given: Given) -> Work:
    return _cached(given, "simplecache")


def _cached(given: Given, name: str) -> Work:
    import fsspec

    there: dict[str, Any] = {name: {"cache_storage": given["cache"]}}
    return _reads(fsspec.open(f"{name}::s3://{PATH}", s3=options(given["endpoint"]), **there), given)


def _reads(opened: Any, given: Given) -> Work:
    def run() -> dict[str, Any]:
        time.sleep(given["number"] * APART_S)
        got, is_right = 0, False
        try:
            with opened as file:
                found = file.read()
            got, is_right = len(found), hashlib.sha256(found).hexdigest() == given["expected"]
        except Exception:
            return {"got": got, "wrong": 0, "failed": 1}
        return {**kept(got), "wrong": int(not is_right), "failed": 0}

    return run


ARMS: Mapping[str, Arm] = {
    "holdshort": Arm(_holdshort, profile="training"),
    "filecache": Arm(_filecache),
    "simplecache": Arm(_simplecache),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {GROUP: tuple(ARMS)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    with store(SIZE) as endpoint:
        with urlopen(f"{endpoint}/{PATH}") as answer:
            expected = hashlib.sha256(answer.read()).hexdigest()

        def measure(group: str, arm: str) -> Run:
            with tempfile.TemporaryDirectory() as cache:
                each = started("racing", arm, count=READERS, cache=cache, endpoint=endpoint, expected=expected)
            moved = stats(endpoint)
            return {
                "seconds": max(one["seconds"] for one in each),
                "reads": READERS,
                "wrong": sum(one["wrong"] for one in each),
                "failed": sum(one["failed"] for one in each),
                "cpu_s": sum(one["cpu_s"] for one in each),
                **{name: max(one[name] for one in each) for name in ("peak_mib", "held_mib", "budget_mib")},
                "requests": moved["requests"],
                "fetched": moved["bytes"] / SIZE,
            }

        yield measure


ROW = Row(
    name="racing",
    title=f"{READERS} processes on a cold object of {SIZE // MIB} MiB, through one cache on disk",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=(
        SECONDS, Column("reads", "reads", 0, is_total=True), Column("wrong", "wrong", 0, is_total=True),
        Column("failed", "failed", 0, is_total=True), REQUESTS, FETCHED, CPU_S, PEAK, HELD, BUDGET,
    ),
    aims=(
        Aim("reads with a wrong byte", GROUP, "holdshort", "wrong", at_most=0, is_total=True),
        Aim("reads that failed", GROUP, "holdshort", "failed", at_most=0, is_total=True),
        Aim("bytes fetched per byte of the object", GROUP, "holdshort", "fetched", at_most=1.05),
    ),
    chart=("wrong", "reads with a wrong byte"),
    repeats=(5, 1),
)  # fmt: skip
