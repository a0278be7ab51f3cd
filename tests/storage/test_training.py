"""Data sets in loaders with workers of every kind: nothing hangs, no byte is wrong, and each is fetched once."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdshort.storage import prefetch
from holdshort.storage.caching.folder import CacheFolder
from holdshort.storage.caching.tending import verify
from holdshort.storage.errors import ObjectChanged, SettingsError
from support.caching import opened
from support.faulty_s3 import FaultyS3
from support.training import Samples, samples
from support.waiting import eventually

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more than there are cores

MIB = 2**20
SET = samples(48)
ALL_BYTES = sum(map(len, SET.values()))
LARGE = random.Random(5).randbytes(2**20)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "v1"


@pytest.fixture
def store(cache: Path) -> Iterator[FaultyS3]:
    store = FaultyS3(LARGE)
    store.contents.update(SET)
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
    assert sorted(loader) == [(number, LARGE[number * 30_000 :][:1000]) for number in range(30)]
    assert data[3] == (3, LARGE[90_000:91_000]), "and still here"


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


# -- prefetch --------------------------------------------------------------------------------------------


def test_what_is_prefetched_is_at_hand_when_it_is_yielded(store: FaultyS3) -> None:
    fs = opened(store.options)
    paths = [*reversed(SET), "bkt/large"]
    found: dict[str, bytes] = {}
    seen: list[str] = []
    with opened(store.options).open("bkt/other") as other:
        other.read(1)  # connected
    before = store.served_bytes
    for path in fs.prefetch(paths, ahead_objects=8):
        asked = store.served_of(path)
        found[path] = fs.cat_file(path)
        assert store.served_of(path) == asked
        seen.append(path)
    assert seen == paths
    assert found == {**SET, "bkt/large": LARGE}
    assert store.served_bytes - before == ALL_BYTES + len(LARGE)


@pytest.mark.parametrize("ahead", [{"ahead_objects": 5}, {"ahead_bytes": 300_000}])
def test_no_more_is_fetched_ahead_than_was_allowed(store: FaultyS3, ahead: dict[str, int]) -> None:
    fs = opened(store.options)
    paths = list(SET)
    taken = 0
    farthest: list[int] = []
    store.on_get = lambda path: farthest.append(paths.index(path) - taken if path in SET else -1)
    reading = iter(fs.prefetch(paths, **ahead))
    for taken in range(20):
        assert next(reading) == paths[taken]
    eventually(lambda: store.gets >= 19 + 5, what="all that may come ahead of the reader has come")
    assert max(farthest) == 4, "at no time was more asked for than the one in hand and four ahead"
    reading.close()  # pyright: ignore[reportAttributeAccessIssue]
    del farthest[:]
    # It is asked for behind all that was still waiting.
    assert list(fs.prefetch(["bkt/large"])) == ["bkt/large"]
    assert set(farthest) == {-1}, "and nothing after its end"
    assert not [thread for thread in threading.enumerate() if thread.name == "holdshort-prefetch"]


def test_reads_by_other_processes_are_noticed(store: FaultyS3) -> None:
    fs = opened(store.options)
    ways = multiprocessing.get_context("fork")
    queue, begin = ways.Queue(), ways.Event()
    children = [
        ways.Process(target=_reads_some, args=(Samples(store.options, list(SET)), first, queue, begin))
        for first in range(2)
    ]
    for child in children:
        child.start()
    with fs.prefetch(SET, ahead_objects=8):
        eventually(lambda: store.gets == 8)
        begin.set()
        assert [queue.get(timeout=60) for _ in children] == [True, True]
    for child in children:
        child.join()
    assert {path: store.served_of(path) for path in SET} == {path: len(data) for path, data in SET.items()}


def test_it_goes_as_far_ahead_as_other_processes_have_read(store: FaultyS3) -> None:
    fs = opened(store.options)
    ways = multiprocessing.get_context("fork")
    queue, begin = ways.Queue(), ways.Event()
    few = Samples(store.options, list(SET)[:8])
    child = ways.Process(target=_reads_some, args=(few, 0, queue, begin, 1))
    child.start()
    with fs.prefetch(SET, ahead_objects=8):
        eventually(lambda: store.gets == 8)
        begin.set()
        assert queue.get(timeout=60) is True
        eventually(lambda: store.gets == 16)  # by nobody else: the child had all that it read at hand
    child.join()


def _reads_some(data: Samples, first: int, queue: Any, begin: Any, every: int = 2) -> None:
    """Every second one, as the workers of a loader do."""
    begin.wait()
    expected = list(SET.values())
    queue.put(all(data[number] == (number, expected[number]) for number in range(first, len(data), every)))


def test_it_is_a_sampler_for_a_loader_with_workers(store: FaultyS3, utils: Any) -> None:
    data = Samples(store.options, list(SET))
    order = utils.RandomSampler(data)
    loader = utils.DataLoader(
        data, batch_size=None, collate_fn=tuple, num_workers=2, multiprocessing_context="fork", timeout=60,
        sampler=data.fs.prefetch(order, path=data.paths.__getitem__, ahead_objects=10),
    )  # fmt: skip
    assert len(loader) == len(SET)
    for _ in range(2):
        assert _same(list(loader))
    assert store.served_bytes == ALL_BYTES


def test_an_object_that_fails_stops_no_other_and_is_told_to_its_reader(store: FaultyS3) -> None:
    fs = opened(store.options)
    store.contents["bkt/set/0003.bin"] = b""
    store.refused.add("bkt/set/0003.bin")
    paths = list(SET)
    for path in fs.prefetch(paths):
        if path == "bkt/set/0003.bin":
            with pytest.raises(PermissionError):
                fs.cat_file(path)
        else:
            assert fs.cat_file(path) == SET[path]


def test_a_cache_too_small_for_the_set_is_used_as_far_as_it_goes(store: FaultyS3, cache: Path) -> None:
    budget = ALL_BYTES * 2 // 5
    fs = opened(store.options, cache_bytes=budget)
    rng = random.Random(1)
    for epoch in range(3):
        before = store.served_bytes
        for path in fs.prefetch(rng.sample(list(SET), len(SET)), ahead_objects=2):
            at_hand = store.served_of(path)
            assert fs.cat_file(path) == SET[path]
            assert store.served_of(path) == at_hand, "fetched ahead, though the cache is full"
        if epoch:
            assert store.served_bytes - before <= ALL_BYTES * 0.75
    assert CacheFolder(cache, budget).count() <= budget


def test_a_full_cache_without_room_for_two_of_the_objects_keeps_what_it_has(store: FaultyS3, cache: Path) -> None:
    budget = ALL_BYTES * 2 // 5

    def held() -> dict[str, int]:
        return {entry.subject.path: entry.held_bytes for entry in CacheFolder(cache, budget).entries()}

    fs = opened(store.options, cache_bytes=budget)
    for path in SET:
        fs.cat_file(path)
    before, served = held(), store.served_bytes
    for path in fs.prefetch(random.Random(1).sample(list(SET), len(SET))):
        assert fs.cat_file(path) == SET[path]
    assert held() == before, "nothing has left for what would have come a moment sooner"
    # Whether there is room is looked at now and then, which may bring an object twice.
    assert store.served_bytes - served <= ALL_BYTES * 0.7


@pytest.mark.parametrize("prefetching", [False, True])
def test_what_a_full_cache_does_not_keep_leaves_no_file_in_it(store: FaultyS3, cache: Path, prefetching: bool) -> None:
    fs = opened(store.options, cache_bytes=ALL_BYTES // 3)
    for _ in range(2):
        for path in fs.prefetch(SET) if prefetching else SET:
            assert fs.cat_file(path) == SET[path]
    held = {entry.subject.path: entry.held_bytes for entry in CacheFolder(cache, ALL_BYTES).entries()}
    assert 0 < len(held) < len(SET) / 2
    assert all(held.values())


def test_without_a_cache_nothing_is_fetched_ahead_and_that_is_said(
    store: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    fs = opened(store.options, cache="none")
    paths = list(SET)
    assert [fs.cat_file(path) for path in fs.prefetch(paths)] == list(SET.values())
    assert "Nothing is fetched ahead: bkt/set/0000.bin is not cached" in caplog.text


def test_urls_are_prefetched_through_the_training_profile(store: FaultyS3) -> None:
    urls = [f"s3://{path}" for path in SET]
    values = {"s3": store.options}
    assert list(prefetch(urls, **values)) == urls
    assert store.served_bytes == ALL_BYTES
    with pytest.raises(SettingsError, match="there is no URL to prefetch"):
        prefetch([])
    with pytest.raises(SettingsError, match="ahead_bytes is 0; it has to be 1 or more"):
        prefetch(urls, ahead_bytes=0, **values)
