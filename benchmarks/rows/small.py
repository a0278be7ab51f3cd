"""Many small objects, by one cat()."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from . import clients
from .far_store import store
from .processes import moved
from .row import MOVED, Aim, Arm, Given, Measure, Row, Run, Work, kept

GROUP = "by one cat()"
SIZE = 64_000


def _keys(given: Given) -> list[str]:
    return [f"small-{number}" for number in range(given["objects"])]


def _work(fs: Any, given: Given) -> Work:
    paths = [f"bucket/{key}" for key in _keys(given)]

    return lambda: kept(sum(len(data) for data in fs.cat(paths).values()))


def _holdshort(given: Given) -> Work:
    return _work(clients.holdshort("training", given["endpoint"], cache="none"), given)


def _holdshort_keeping(given: Given) -> Work:
    return _work(clients.holdshort("training", given["endpoint"], cache="disk"), given)


def _s3fs(given: Given) -> Work:
    return _work(clients.s3fs(given["endpoint"]), given)


def _gcsfs(given: Given) -> Work:
    return _work(clients.gcsfs(given["endpoint"]), given)


def _obstore(given: Given) -> Work:
    """get, by 32 threads."""
    found, keys = clients.obstore(given["endpoint"]), _keys(given)

    def one(key: str) -> Any:
        return found.get(key).bytes()

    def run() -> dict[str, Any]:
        with ThreadPoolExecutor(32) as pool:
            return kept(sum(len(data) for data in list(pool.map(one, keys))))

    return run


def _obstore_by_hand(given: Given) -> Work:
    found, wanted = clients.obstore(given["endpoint"]), [(key, 0, SIZE) for key in _keys(given)]
    return lambda: kept(len(asyncio.run(clients.by_hand(found, 64, wanted))))


ARMS: Mapping[str, Arm] = {
    "holdshort": Arm(_holdshort, profile="training"),
    "holdshort, keeping it": Arm(_holdshort_keeping, profile="training"),
    "s3fs": Arm(_s3fs),
    "gcsfs": Arm(_gcsfs, "gcsfs", "gcsfs"),
    "obstore, 32 threads": Arm(_obstore, "obstore", "obstore"),
    "obstore by hand": Arm(_obstore_by_hand, "obstore", "obstore"),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {GROUP: tuple(ARMS)}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    objects = 500 if quick else 4000
    with store(SIZE) as endpoint:

        def measure(group: str, arm: str) -> Run:
            return moved("small", arm, endpoint, size=SIZE, objects=objects)

        yield measure


ROW = Row(
    name="small",
    title="4,000 objects of 64 KB (quick: 500)",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=MOVED,
    aims=(
        Aim("times as fast as s3fs.cat", GROUP, "holdshort", than="s3fs", at_least=4),
        Aim("bytes fetched per byte read", GROUP, "holdshort", "fetched", at_most=1.05),
    ),
    chart=("mb_per_s", "MB/s"),
)
