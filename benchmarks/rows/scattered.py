"""Small pieces of one object: read at random from one open file, and as ranges that are asked for at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from . import clients
from .far_store import MIB, PATH, SEED, store
from .processes import moved
from .row import MOVED, Aim, Arm, Given, Measure, Row, Run, Work, kept

PIECE, READS, RANGES = 65536, 40, 400
ONE_BY_ONE, AT_ONCE = f"{READS} reads, one file", f"{RANGES} ranges at once"


def _spans(size: int) -> list[tuple[int, int]]:
    drawn = random.Random(SEED)
    starts = [drawn.randrange(size - PIECE) for _ in range(RANGES)]
    return [(start, start + PIECE) for start in starts]


def _work(fs: Any, given: Given, **opening: Any) -> Work:
    spans = _spans(given["size"])

    def one_by_one() -> int:
        got = 0
        with fs.open(PATH, **opening) as file:
            for start, end in spans[:READS]:
                file.seek(start)
                got += len(file.read(end - start))
        return got

    def at_once() -> dict[str, int]:
        starts, ends = zip(*spans, strict=True)
        return kept(sum(len(data) for data in fs.cat_ranges([PATH] * RANGES, list(starts), list(ends))))

    return one_by_one if given["group"] == ONE_BY_ONE else at_once


def _holdshort(given: Given) -> Work:
    return _work(clients.holdshort("training", given["endpoint"], cache="none"), given)


def _s3fs(given: Given) -> Work:
    return _work(clients.s3fs(given["endpoint"]), given)


def _s3fs_adaptive(given: Given) -> Work:
    return _work(clients.s3fs(given["endpoint"]), given, cache_type="adaptive", block_size=5 * MIB)


def _gcsfs(given: Given) -> Work:
    return _work(clients.gcsfs(given["endpoint"]), given)


def _obstore(given: Given) -> Work:
    """get_range, as whoever reads at random would; at once, by 32 threads."""
    found, spans = clients.obstore(given["endpoint"]), _spans(given["size"])

    def one(span: tuple[int, int]) -> int:
        return len(found.get_range("object", start=span[0], end=span[1]))

    def at_once() -> int:
        with ThreadPoolExecutor(32) as pool:
            return sum(pool.map(one, spans))

    return at_once if given["group"] == AT_ONCE else lambda: sum(map(one, spans[:READS]))


def _obstore_by_hand(given: Given) -> Work:
    found, wanted = clients.obstore(given["endpoint"]), [("object", *span) for span in _spans(given["size"])]
    return lambda: kept(len(asyncio.run(clients.by_hand(found, 64, wanted))))


ARMS: Mapping[str, Arm] = {
    "holdshort": Arm(_holdshort, profile="training"),
    "s3fs": Arm(_s3fs),
    "s3fs adaptive": Arm(_s3fs_adaptive),
    "gcsfs": Arm(_gcsfs, "gcsfs", "gcsfs"),
    "obstore": Arm(_obstore, "obstore", "obstore"),
    "obstore by hand": Arm(_obstore_by_hand, "obstore", "obstore"),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    return {
        ONE_BY_ONE: ("holdshort", "s3fs", "s3fs adaptive", "gcsfs", "obstore"),
        AT_ONCE: ("holdshort", "s3fs", "gcsfs", "obstore", "obstore by hand"),
    }


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    size = (256 if quick else 1024) * MIB
    with store(size) as endpoint:

        def measure(group: str, arm: str) -> Run:
            return moved("scattered", arm, endpoint, size=size, group=group)

        yield measure


ROW = Row(
    name="random",
    title="Pieces of 64 KiB at random of an object of 1 GiB (quick: 256 MiB)",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=MOVED,
    aims=(
        Aim("bytes fetched per byte read, one file", ONE_BY_ONE, "holdshort", "fetched", at_most=1.5),
        Aim("bytes fetched per byte, ranges at once", AT_ONCE, "holdshort", "fetched", at_most=1.5),
    ),
    chart=("seconds", "s"),
)
