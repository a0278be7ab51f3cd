"""Data sets in loaders with workers of every kind: nothing hangs, no byte is wrong, and each is fetched once."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdshort.storage.caching.folder import CacheFolder
from holdshort.storage.caching.tending import verify
from holdshort.storage.errors import ObjectChanged
from support.caching import opened
from support.faulty_s3 import FaultyS3
from support.training import Samples, samples

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than there are cores

MIB = 2**20
SET = samples(48)
ALL_BYTES = sum(map(len, SET.values()))
LARGE = bytes(range(256)) * 4096


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "v1"


@pytest.fixture
def store(cache: Path) -> Iterator[FaultyS3]:
    store = FaultyS3(LARGE)
    store.objects.update(SET)
    with store.serving() as store:
        yield store


@pytest.fixture
def utils() -> Any:
    """torch.utils.data; without torch, these tests don't run."""
    data: Any = pytest.importorskip("torch.utils.data")
    return data


def _same(found: list[tuple[int, bytes]]) -> bool:
    return sorted(found) == list(enumerate(SET.values()))


@pytest.mark.parametrize(
    ("workers", "way", "stay"),
    [(0, None, False), (2, "fork", False), (4, "fork", True), (2, "spawn", True)],
)
def test_each_epoch_is_right_and_each_byte_fetched_once(
    store: FaultyS3, utils: Any, workers: int, way: str | None, stay: bool
) -> None:
    data = Samples(store.options, list(SET))
    if workers:
        data[0]  # the parent has read too, so that its threads and connections exist when it forks
    loader = utils.DataLoader(
        data, batch_size=None, collate_fn=tuple, shuffle=True, num_workers=workers, multiprocessing_context=way,
        persistent_workers=stay, timeout=60 if workers else 0,
    )  # fmt: skip
    for _ in range(3):
        assert _same(list(loader))
    assert store.served_bytes == ALL_BYTES


def test_a_worker_that_is_killed_leaves_the_others_and_the_next_ones_whole(
    store: FaultyS3, utils: Any, cache: Path
) -> None:
    data = Samples(store.options, list(SET), killed_at=20)
    loader = utils.DataLoader(
        data, batch_size=None, collate_fn=tuple, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    with pytest.raises(RuntimeError, match=r"exited unexpectedly|killed by signal"):
        list(loader)
    loader = utils.DataLoader(
        Samples(store.options, list(SET)),
        batch_size=None,
        collate_fn=tuple,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=60,
    )
    assert _same(list(loader))
    assert store.served_bytes <= ALL_BYTES * 1.2
    folder = CacheFolder(cache, 100 * MIB)
    assert all(wrong == 0 for _, wrong in verify(folder, list(folder.entries())))


@pytest.mark.parametrize("way", ["fork", "spawn"])
@pytest.mark.parametrize("values", [{}, {"cache": "none"}], ids=["cached", "not cached"])
def test_a_file_that_was_opened_before_works_in_the_workers(
    store: FaultyS3, utils: Any, way: str, values: dict[str, Any]
) -> None:
    data = Samples(store.options, ["bkt/large"] * 30, opens_early=True, **values)
    loader = utils.DataLoader(
        data, batch_size=None, collate_fn=tuple, num_workers=2, multiprocessing_context=way, timeout=60
    )
    assert sorted(loader) == [(number, LARGE[number * 1000 : number * 1000 + 1000]) for number in range(30)]
    assert data[3] == (3, LARGE[3000:4000]), "and still here"


def test_a_file_that_is_handed_on_is_the_same_version_or_says_so(store: FaultyS3) -> None:
    fs = opened(store.options, freshness_s=0.0)
    with fs.open("bkt/large") as file:
        file.seek(77)
        with pickle.loads(pickle.dumps(file)) as other:
            assert other.read() == LARGE[77:]
        there = pickle.dumps(file)
    store.faults.append("changed")
    with pytest.raises(ObjectChanged):
        pickle.loads(there)


def test_processes_that_ask_at_once_what_small_objects_are_ask_once(store: FaultyS3) -> None:
    ways = multiprocessing.get_context("fork")
    queue, begin = ways.Queue(), ways.Barrier(8)
    children = [
        ways.Process(target=_reads_all, args=(Samples(store.options, list(SET)), queue, begin)) for _ in range(8)
    ]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [True] * 8
    for child in children:
        child.join()
    assert store.served_bytes == ALL_BYTES


def _reads_all(data: Samples, queue: Any, begin: Any) -> None:
    begin.wait()
    queue.put(_same([data[number] for number in range(len(data))]))
