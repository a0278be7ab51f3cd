"""3 shuffled epochs of a data set, with a cache of 25 to 150 % of it and 0 to 4 workers of torch's DataLoader.

Beside the same files in a local folder in the page cache. A sample is read as a whole and summed up. "Hits" is what of
the set did not come from the store in an epoch.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import clients
from .child import cpu_s
from .far_store import MIB, SEED, stats, store_of
from .processes import started, touch
from .row import BUDGET, CPU_S, HELD, PEAK, SECONDS, Aim, Arm, Column, Given, Measure, Row, Run, Work

EPOCHS = 3
SHARES, WORKERS = (25, 50, 100, 150), (0, 2, 4)
_WORKERS_BYTES = 512 * MIB
"""Workers are new in each epoch, and so is their memory. A machine that gives free memory back to its host takes long
to get it again, which would count against whoever took longest for the epoch before."""
Read = Callable[[str], bytes]


class _Samples:
    """A data set as torch asks for it."""

    def __init__(self, paths: Sequence[str], read: Read) -> None:
        self._paths, self._read = paths, read

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> int:
        import numpy as np

        return int(np.frombuffer(self._read(self._paths[number]), np.uint64).sum(dtype=np.uint64))


def _local(given: Given) -> Work:
    folder = Path(given["folder"])
    return _epochs(given, lambda path: (folder / path).read_bytes())


def _s3fs(given: Given) -> Work:
    return _epochs(given, clients.s3fs(given["endpoint"]).cat_file)


def _holdshort(given: Given, *, share: int, prefetches: bool) -> Work:
    from holdshort.storage.reading.reader import HEAD_BYTES

    room = given["objects"] * given["size"] * share // 100 + HEAD_BYTES  # what connecting has kept
    fs = clients.holdshort("training", given["endpoint"], cache_bytes=room)
    return _epochs(given, fs.cat_file, fs.prefetch if prefetches else None)


def _epochs(given: Given, read: Read, prefetch: Any = None) -> Work:
    objects, workers = given["objects"], given["workers"]
    paths = [f"bucket/set/{number:05}" for number in range(objects)]
    data = _Samples(paths, read)

    def epoch(number: int) -> tuple[float, float, float]:
        """(seconds, seconds of processors, bytes that the store sent ÷ those of the set)"""
        touch(_WORKERS_BYTES)
        stats(given["endpoint"])
        busy, began = cpu_s(), time.perf_counter()
        order: Any = random.Random(SEED + number).sample(range(objects), objects)
        if prefetch is not None:
            order = prefetch(order, path=paths.__getitem__)
        if workers:
            from torch.utils.data import DataLoader

            dataset: Any = data
            loader: Any = DataLoader(
                dataset, batch_size=None, sampler=order, num_workers=workers, multiprocessing_context="fork"
            )
            samples = sum(1 for _ in loader)
        else:
            samples = sum(1 for at in order if data[at] >= 0)
        assert samples == objects
        seconds, busy_s = time.perf_counter() - began, cpu_s() - busy
        return seconds, busy_s, stats(given["endpoint"])["bytes"] / (objects * given["size"])

    def run() -> dict[str, Any]:
        found: dict[str, Any] = {
            "got": EPOCHS * objects * given["size"], "seconds": 0.0, "cpu_s": 0.0, "fetched": 0.0
        }  # fmt: skip
        for number in range(EPOCHS):
            seconds, busy_s, fetched = epoch(number)
            found[f"epoch_{number + 1}_s"], found[f"hits_{number + 1}"] = seconds, 1 - fetched
            found["seconds"] += seconds
            found["cpu_s"] += busy_s
            found["fetched"] += fetched / EPOCHS
        return found

    return run


ARMS: Mapping[str, Arm] = {
    "s3fs": Arm(_s3fs),
    **{
        f"{name}, {share} %": Arm(partial(_holdshort, share=share, prefetches=prefetches), profile="training")
        for share in SHARES
        for name, prefetches in (("holdshort", False), ("prefetching", True))
    },
    "local": Arm(_local),
}


def _groups(quick: bool) -> Mapping[str, Sequence[str]]:
    workers = WORKERS[: 2 if quick else 3] if find_spec("torch") else (0,)
    left_out = ("25 %", "100 %") if quick else ()
    arms = [arm for arm in ARMS if not arm.endswith(left_out)]
    # s3fs can't be used in a forked worker.
    return {f"{count} workers": [arm for arm in arms if arm != "s3fs" or not count] for count in workers}


@contextmanager
def _opened(quick: bool, repeats: int) -> Iterator[Measure]:
    objects, size = (48, 2 * MIB) if quick else (64, 32_000_000)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "bucket" / "set"
        place.mkdir(parents=True)
        for number in range(objects):
            (place / f"{number:05}").write_bytes(random.Random(SEED).randbytes(size))
        with store_of(place / "00000") as endpoint:

            def measure(group: str, arm: str) -> Run:
                with tempfile.TemporaryDirectory() as cache:
                    (run,) = started(
                        "epochs", arm, cache=cache, endpoint=endpoint, objects=objects, size=size, folder=folder,
                        workers=int(group.split()[0]),
                    )  # fmt: skip
                return run

            yield measure


ROW = Row(
    name="epochs",
    title="3 shuffled epochs of 64 shards of 32 MB (quick: 48 of 2 MiB), by share of the set that the cache may keep",
    arms=ARMS,
    groups=_groups,
    opened=_opened,
    columns=(
        SECONDS,
        *(Column(f"epoch_{number}_s", f"epoch {number} s", 2) for number in (1, 2, 3)),
        *(Column(f"hits_{number}", f"hits {number}", 2) for number in (1, 2, 3)),
        CPU_S, PEAK, HELD, BUDGET,
    ),
    aims=(
        *(
            Aim(f"of the page cache's speed, epoch 2, cache {share} %, worst number of workers", "",
                f"holdshort, {share} %", "epoch_2_s", than="local", at_least=0.8)
            for share in (100, 150)
        ),
        Aim("of the page cache's speed, the same with prefetch()", "", "prefetching, 150 %", "epoch_2_s", than="local",
            at_least=0.8),
        # Each shard is read once in an epoch, so no cache, even one that knows the order, hits more than it holds when
        # the epoch begins (tests/storage/test_eviction.py has the best that can be as a simulation).
        *(
            Aim(f"hits in epoch 2, {arm}, fewest of any number of workers; {share / 100:g} can be hit", "",
                f"{arm}, {share} %", "hits_2", at_least=0.95 * share / 100)
            for arm in ("holdshort", "prefetching")
            for share in (25, 50)
        ),
    ),
    chart=("epoch_2_s", "s, epoch 2"),
)  # fmt: skip
