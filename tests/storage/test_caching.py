"""The cache on this machine: never a wrong byte, whatever happens to it, and no byte fetched twice."""

from __future__ import annotations

import gc
import hashlib
import logging
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.storage.caching import through
from holdshort.storage.caching.folder import _CHANGING_AT, CacheFolder  # pyright: ignore[reportPrivateUsage]
from holdshort.storage.caching.layout import BLOCK_BYTES, Subject, subject_of
from holdshort.storage.caching.locks import RangeLock
from holdshort.storage.caching.place import _file_system, cache_folder, unusable  # pyright: ignore[reportPrivateUsage]
from holdshort.storage.caching.tending import existing, prune, verify
from holdshort.storage.errors import SettingsError, StoreUnavailable
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.reading import buffers, fetching
from support.caching import digest_of, opened, read_and_vanish, read_for_ever
from support.commands import Commands, Ran
from support.faulty_gcs import FaultyGcs
from support.faulty_s3 import FaultyS3
from support.waiting import eventually

MIB = 2**20
CONTENT = random.Random(3).randbytes(9 * MIB + 12345)
PATH = "bkt/data/a.bin"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "v1"


@pytest.fixture
def store(cache: Path) -> Iterator[FaultyS3]:
    with FaultyS3(CONTENT).serving() as store:
        yield store


def _files(cache: Path) -> list[Path]:
    return sorted((cache / "objects").glob("*/*.object"))


def test_what_was_kept_stays_when_a_store_that_keeps_versions_says_the_same_again(cache: Path) -> None:
    pytest.importorskip("gcsfs")
    with FaultyGcs(keeps_versions=True).serving() as gcs:
        gcs.put("a", CONTENT)
        for again in range(3):
            # Each asks anew what the object is, and notes the answer.
            fs = TrainingFileSystem(
                target_protocol="gs", target_options={**gcs.options, "skip_instance_cache": True},
                skip_instance_cache=True, part_bytes=MIB, freshness_s=0.0,
            )  # fmt: skip
            assert fs.cat_file("bkt/a") == CONTENT
            assert len(_files(cache)) == 1
            fetched = fs.reader.traffic.fetched_bytes
            assert fetched <= MIB if again else fetched >= len(CONTENT)


def test_what_was_read_once_is_not_fetched_again_by_whoever_reads_it_how_ever(store: FaultyS3) -> None:
    assert opened(store.options).cat_file(PATH) == CONTENT
    asked, served = store.gets, store.served_bytes
    assert served <= len(CONTENT) * 1.05
    for fs in (opened(store.options), opened(store.options)):
        with fs.open(PATH) as file:
            assert b"".join(iter(lambda: file.read(100_001), b"")) == CONTENT
            file.seek(-100, 2)
            assert file.read() == CONTENT[-100:]
        assert fs.cat_file(PATH, start=5, end=MIB) == CONTENT[5:MIB]
        assert fs.cat_ranges([PATH] * 2, [7, 3 * MIB], [9, 4 * MIB]) == [CONTENT[7:9], CONTENT[3 * MIB : 4 * MIB]]
    assert (store.gets, store.served_bytes) == (asked, served)


@pytest.mark.parametrize("seed", range(5))
def test_a_part_that_is_there_is_used_and_only_what_is_missing_is_fetched(store: FaultyS3, seed: int) -> None:
    rng = random.Random(seed)
    fs = opened(store.options, gap_bytes=0, read_ahead="none")
    held = bytearray(len(CONTENT))
    for _ in range(30):
        start = rng.randrange(len(CONTENT))
        end = min(len(CONTENT), start + rng.choice([1, 100, 70_000, 3 * MIB]))
        assert fs.cat_file(PATH, start=start, end=end) == CONTENT[start:end]
        first = start // BLOCK_BYTES * BLOCK_BYTES
        last = min(len(CONTENT), -(-end // BLOCK_BYTES) * BLOCK_BYTES)
        held[first:last] = b"\1" * (last - first)
    head = 256 * 1024  # what came with the answer to "what is it?"
    assert store.served_bytes <= held[head:].count(1) + head


def _came(file: Any) -> list[int]:
    """What has come of each part that is there or on its way."""
    return [part._came for part in file._window._parts]


def test_whoever_waits_for_the_first_bytes_of_a_request_gets_them_before_the_last_come(store: FaultyS3) -> None:
    with opened(store.options, part_bytes=8 * MIB, read_ahead="whole").open(PATH) as file:
        store.faults.extend(["halved"] * 100)
        file.seek(MIB + 1)  # within a block, which is fetched and kept as a whole
        assert file.read(1000) == CONTENT[MIB + 1 : MIB + 1001]
        assert not store.held_in_vain
        store.goes_on.set()


def test_of_requests_that_nobody_waits_for_any_more_those_in_use_end_and_what_came_of_others_is_kept(
    store: FaultyS3, cache: Path
) -> None:
    with opened(store.options, part_bytes=2 * MIB).open(PATH) as file:
        store.faults.extend(["halved"] * 100)
        assert b"".join(file.read(100_001) for _ in range(4)) == CONTENT[:400_004]
        eventually(lambda: sum(came >= 64 * 1024 for came in _came(file)) >= 3)
    store.goes_on.set()
    folder = CacheFolder(cache, 100 * MIB)
    cached = folder.object(next(folder.entries()).subject)
    assert cached is not None
    eventually(lambda: not cached.missing(0, 2 * MIB), what="it was read from, and is finished")
    # Each of the others begins at a multiple of 2 MiB, and the rest of it is not there.
    eventually(lambda: sum(begin % (2 * MIB) > 0 for begin, _ in cached.missing(2 * MIB, len(CONTENT))) >= 2)
    store.faults.clear()
    assert opened(store.options).cat_file(PATH) == CONTENT


def test_what_came_before_the_store_went_away_is_kept(store: FaultyS3, cache: Path) -> None:
    fs = opened(store.options, part_bytes=256 * 1024)
    fs.cat_file(PATH, start=0, end=1)
    store.faults.extend(["cut"] * 1000)  # half of what was left comes, each time it is tried
    with pytest.raises(StoreUnavailable):
        fs.cat_file(PATH)
    store.faults.clear()
    folder = CacheFolder(cache, 100 * MIB)
    (entry,) = folder.entries()
    assert entry.held_bytes > MIB
    served = store.served_bytes
    assert fs.cat_file(PATH) == CONTENT
    assert store.served_bytes - served <= len(CONTENT) - entry.held_bytes


def test_a_small_object_that_is_meant_to_be_had_whole_is_fetched_to_its_end_when_its_reader_leaves(
    store: FaultyS3, cache: Path
) -> None:
    with opened(store.options, read_ahead="whole").open(PATH) as file:
        file.seek(5 * MIB)
        assert file.read(1000) == CONTENT[5 * MIB : 5 * MIB + 1000]
    folder = CacheFolder(cache, 100 * MIB)
    cached = folder.object(next(folder.entries()).subject)
    assert cached is not None
    eventually(lambda: not cached.missing(5 * MIB, len(CONTENT)))


def test_what_is_still_fetched_when_its_file_system_is_gone_leaves_no_connection_open(
    store: FaultyS3, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_IDLE_S", 0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fs = opened(store.options, part_bytes=MIB, read_ahead="whole", connections=2)
        with fs.open(PATH) as file:
            store.faults.extend(["halved"] * 2)
            file.seek(5 * MIB)
            assert file.read(1000) == CONTENT[5 * MIB : 5 * MIB + 1000]
        reader = weakref.ref(fs.reader)
        del fs, file
        eventually(lambda: (gc.collect(), reader() is None)[1])
        store.goes_on.set()
        folder = CacheFolder(cache, 100 * MIB)
        cached = folder.object(next(folder.entries()).subject)
        assert cached is not None
        eventually(lambda: not cached.missing(5 * MIB, len(CONTENT)), what="it is finished all the same")
        eventually(lambda: (gc.collect(), not store.connected)[1])
    assert [str(each.message) for each in said] == []


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[mmap.mmap]:
    """The memory that this test's file systems have taken to read into."""
    found: list[mmap.mmap] = []

    def fresh(size: int) -> mmap.mmap:
        found.append(real(size))
        return found[-1]

    real = buffers.fresh
    monkeypatch.setattr(buffers, "fresh", fresh)
    monkeypatch.setattr(buffers, "_of_process", {})
    return found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[RangeLock]:
    """Locks that were waited for, or would have been."""
    found: list[RangeLock] = []

    def acquire(self: RangeLock, patience_s: float = 0.0) -> bool:
        if patience_s == through._PATIENCE_S:  # pyright: ignore[reportPrivateUsage]
            found.append(self)
        return real(self, patience_s)

    real = RangeLock.acquire
    monkeypatch.setattr(RangeLock, "acquire", acquire)
    return found


@pytest.mark.parametrize("length", [2 * MIB, 100_001])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_what_somebody_else_fetches_ahead_stays_in_the_cache_until_it_is_read(
    store: FaultyS3, cache: Path, taken: list[mmap.mmap], waits: list[RangeLock], length: int, is_flipped: bool
) -> None:
    first, second = (opened(store.options, part_bytes=2 * MIB, read_ahead="whole") for _ in range(2))
    with first.open(PATH) as ahead, second.open(PATH) as waiting, ThreadPoolExecutor(1) as pool:
        store.faults.extend(["halved"] * 100)
        asked = store.gets
        ahead.seek(2 * MIB)
        assert ahead.read(1000) == CONTENT[2 * MIB : 2 * MIB + 1000]
        of_first = len(taken)
        eventually(lambda: store.gets - asked == of_first, what="all of it is on its way")
        waits.clear()
        waiting.seek(3 * MIB)
        begun = pool.submit(waiting.read, length)
        eventually(lambda: 0 < len(waits) == len(taken) - of_first, what="it waits for all of it")
        store.goes_on.set()
        assert begun.result() == CONTENT[3 * MIB : 3 * MIB + length]
        folder = CacheFolder(cache, 100 * MIB)
        cached = folder.object(next(folder.entries()).subject)
        assert cached is not None
        eventually(lambda: not cached.missing(2 * MIB, len(CONTENT)))
        served = store.served_bytes
        if is_flipped:
            _flip(cached.path, cached.subject.data_at + len(CONTENT) - 1)
        assert b"".join(iter(lambda: waiting.read(length), b"")) == CONTENT[3 * MIB + length :]
        assert (store.served_bytes > served) == is_flipped
        if length >= MIB and not is_flipped:
            written = [buffer for buffer in taken[of_first:] if any(buffer[:])]
            assert len(written) <= 1 < len(taken) - of_first, "but for the end, which is a small read"


def test_what_follows_a_large_read_comes_while_it_goes_straight_to_its_reader(store: FaultyS3) -> None:
    with opened(store.options).open(PATH) as file:
        assert file.read(5_000_000) == CONTENT[:5_000_000]
        eventually(lambda: store.served_bytes >= len(CONTENT))
        asked = store.gets
        assert file.read() == CONTENT[5_000_000:]
        assert store.gets == asked
    assert store.served_bytes == len(CONTENT), "each byte once"


def test_what_is_here_is_not_sent_again_only_to_hear_that_it_is_the_same(store: FaultyS3) -> None:
    fs = opened(store.options, freshness_s=0.0)
    for _ in range(3):
        assert fs.cat_file(PATH) == CONTENT
        with fs.open(PATH) as file:
            assert file.read(MIB) == CONTENT[:MIB]
    assert store.served_bytes <= len(CONTENT) + 5
    store.faults.append("changed")
    assert fs.cat_file(PATH) == bytes(reversed(CONTENT))


def test_a_changed_object_is_never_answered_from_an_older_content(store: FaultyS3, cache: Path) -> None:
    fs = opened(store.options, freshness_s=0.0)
    assert fs.cat_file(PATH) == CONTENT
    store.faults.append("changed")
    other = bytes(reversed(CONTENT))
    assert fs.cat_file(PATH) == other
    assert opened(store.options).cat_file(PATH) == other
    assert [subject_of(path.read_bytes()[:8192])[0].tag for path in _files(cache)] == ['"second"'], (
        "the old one is gone"
    )  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("at", [0, 1, BLOCK_BYTES - 1, 5 * MIB + 77, len(CONTENT) - 1])
def test_a_flipped_bit_is_noticed_and_fetched_again(
    store: FaultyS3, cache: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    opened(store.options).cat_file(PATH)
    (file,) = _files(cache)
    subject, _ = subject_of(file.read_bytes()[:8192]) or pytest.fail("no header")
    _flip(file, subject.data_at + at)
    served = store.served_bytes
    assert opened(store.options).cat_file(PATH) == CONTENT
    assert 0 < store.served_bytes - served <= 2 * BLOCK_BYTES
    assert "were not what had been written" in caplog.text
    served = store.served_bytes
    assert opened(store.options).cat_file(PATH) == CONTENT
    assert store.served_bytes == served, "it has healed"


@pytest.mark.parametrize("harm", ["header", "index", "empty", "cut", "longer", "data gone"])
def test_a_file_that_is_harmed_in_any_other_way_is_not_believed(store: FaultyS3, cache: Path, harm: str) -> None:
    opened(store.options).cat_file(PATH)
    (file,) = _files(cache)
    subject, _ = subject_of(file.read_bytes()[:8192]) or pytest.fail("no header")
    match harm:
        case "header":
            _flip(file, 30)
        case "index":
            _flip(file, 8192 + 3 * 8)
            _flip(file, 8192 + 5 * 8 + 6)
        case "empty":
            file.write_bytes(b"")
        case "cut":
            os.truncate(file, file.stat().st_size - 5)
        case "longer":
            os.truncate(file, file.stat().st_size + 5)
        case _:
            whole = file.read_bytes()
            file.write_bytes(whole[: subject.data_at] + bytes(len(whole) - subject.data_at))
    assert opened(store.options).cat_file(PATH) == CONTENT
    served = store.served_bytes
    assert opened(store.options).cat_file(PATH) == CONTENT
    assert store.served_bytes == served, "it is whole again"


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(at)
        (byte,) = opened_file.read(1)
        opened_file.seek(at)
        opened_file.write(bytes([byte ^ 4]))


def test_sixteen_processes_on_a_cold_object_fetch_each_byte_once_and_read_right(store: FaultyS3) -> None:
    ways = multiprocessing.get_context("fork")
    queue, begin = ways.Queue(), ways.Barrier(16)
    children = [ways.Process(target=digest_of, args=(store.options, PATH, queue, begin)) for _ in range(16)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [DIGEST] * 16
    heads = 16 * 256 * 1024  # each has asked what it is
    assert store.served_bytes - heads <= len(CONTENT) * 1.05


def test_a_process_that_ends_as_soon_as_it_has_read_has_kept_what_came(
    store: FaultyS3, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(store.options).cat_file(PATH, start=0, end=1)
    monkeypatch.setattr("holdshort.storage.caching.folder._PATIENCE_S", 60.0)
    counting = RangeLock(cache / "used", _CHANGING_AT)
    assert counting.acquire(), "until then nothing is kept"
    child = multiprocessing.get_context("fork").Process(target=read_and_vanish, args=(store.options, PATH))
    child.start()
    child.join(1.0)
    counting.close()
    child.join()
    assert child.exitcode == 0
    (entry,) = CacheFolder(cache, 100 * MIB).entries()
    assert entry.held_bytes == len(CONTENT)


def test_threads_of_one_process_fetch_each_byte_once(store: FaultyS3) -> None:
    fs = opened(store.options)
    fs.cat_file(PATH, start=0, end=1)
    found: list[bool] = []

    def read() -> None:
        with fs.open(PATH) as file:
            found.append(file.read() == CONTENT)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert store.served_bytes <= len(CONTENT) * 1.05 + 256 * 1024


def test_a_reader_that_is_killed_leaves_nothing_that_is_read_as_whole(store: FaultyS3, cache: Path) -> None:
    for delay_s in (0.02, 0.05, 0.1, 0.2):
        child = multiprocessing.get_context("fork").Process(
            target=read_for_ever, args=(store.options, PATH, 100 * MIB), daemon=True
        )
        served = store.served_bytes
        child.start()
        eventually(lambda served=served: store.served_bytes > served)
        child.join(delay_s)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        folder = CacheFolder(cache, 100 * MIB)
        assert all(wrong == 0 for _, wrong in verify(folder, list(folder.entries())))
        for file in _files(cache)[:1]:
            file.unlink()
    assert opened(store.options).cat_file(PATH) == CONTENT


def test_a_fetch_that_hangs_elsewhere_does_not_hang_others(
    store: FaultyS3, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(through, "_PATIENCE_S", 0.1)
    fs = opened(store.options)
    fs.cat_file(PATH, start=0, end=1)
    folder = CacheFolder(cache, 100 * MIB)
    (entry,) = folder.entries()
    cached = folder.object(entry.subject)
    assert cached is not None
    flight = cached.flight(0, len(CONTENT))
    assert flight.acquire()
    try:
        assert fs.cat_file(PATH) == CONTENT
    finally:
        flight.close()
    assert cached.missing(0, len(CONTENT)), "what was fetched in spite of it is not kept"


def test_a_child_that_is_forked_in_the_middle_of_a_fetch_holds_no_lock_of_it(store: FaultyS3, cache: Path) -> None:
    fs = opened(store.options)
    fs.cat_file(PATH, start=0, end=1)
    folder = CacheFolder(cache, 100 * MIB)
    cached = folder.object(next(folder.entries()).subject)
    assert cached is not None
    flight = cached.flight(0, MIB)
    assert flight.acquire()
    ready, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        os.read(ready, 1)  # until the parent closes its end
        os._exit(0)
    os.close(ready)
    # As if the parent had died: its file is closed, and nothing was said about the lock.
    os.close(flight._fd)  # pyright: ignore[reportPrivateUsage]
    try:
        other = cached.flight(0, MIB)
        assert other.acquire(5.0)
        other.close()
    finally:
        os.close(leave)
        os.waitpid(child, 0)


def test_the_cache_never_takes_more_than_its_budget_and_reads_stay_right(store: FaultyS3, cache: Path) -> None:
    budget = 30 * MIB
    fs = opened(store.options, cache_bytes=budget)
    for round_ in range(2):
        for name in ("one/a", "one/b", "one/c", "two/d", "two/e"):
            assert fs.cat_file(f"bkt/{name}") == CONTENT
            held = sum(entry.held_bytes for entry in CacheFolder(cache, budget).entries())
            assert held <= budget, round_
            assert _allocated(cache) <= budget + 2 * MIB
    assert held > budget * 0.4


def _allocated(cache: Path) -> int:
    found = 0
    for path in _files(cache):
        with suppress(FileNotFoundError):  # it has left
            found += path.stat().st_blocks * 512
    return found


def test_what_has_no_room_as_a_whole_is_kept_in_part(store: FaultyS3, cache: Path) -> None:
    budget = 5 * MIB + MIB // 2
    fs = opened(store.options, cache_bytes=budget)
    for at in range(0, len(CONTENT), MIB):
        assert fs.cat_file(PATH, at, at + MIB) == CONTENT[at : at + MIB]
    assert budget - BLOCK_BYTES < CacheFolder(cache, budget).count() <= budget
    served = store.served_bytes
    assert opened(store.options, cache_bytes=budget).cat_file(PATH) == CONTENT
    assert store.served_bytes - served <= len(CONTENT) - budget + MIB


def test_processes_that_press_into_a_full_cache_stay_within_it(store: FaultyS3, cache: Path) -> None:
    budget = 15 * MIB
    ways = multiprocessing.get_context("fork")
    children = [
        ways.Process(target=read_for_ever, args=(store.options, f"bkt/{n}/x", budget), daemon=True) for n in range(4)
    ]
    for child in children:
        child.start()
    try:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert _allocated(cache) <= budget + 4 * MIB
    finally:
        for child in children:
            child.kill()
            child.join()
    folder = CacheFolder(cache, budget)
    assert folder.count() <= budget
    assert all(wrong == 0 for _, wrong in verify(folder, list(folder.entries())))


def test_a_full_disk_costs_the_cache_and_no_read(store: FaultyS3, tmp_path: Path) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own (unshare --mount), which is not permitted here")
    program = f"""
import hashlib, logging, subprocess, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
logging.basicConfig(level=logging.WARNING)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "none", {str(tmp_path)!r}], check=True)
from support.caching import opened
fs = opened({store.options!r}, cache_bytes=2**30)
for _ in range(2):
    print(hashlib.sha256(fs.cat_file({PATH!r})).hexdigest())
"""
    environment = {**os.environ, "HOLDSHORT_CACHE": str(tmp_path / "small")}
    done = subprocess.run(
        [*alone, sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [DIGEST] * 2, done.stderr


def test_a_named_folder_where_no_cache_can_lie_is_refused_and_the_default_one_is_done_without(
    store: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        SettingsError, match=r"HOLDSHORT_CACHE names .*/file/cache for the cache, where none can lie: it"
    ):
        opened(store.options, cache_bytes=MIB).cat_file(PATH)
    monkeypatch.delenv("HOLDSHORT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        fs = opened(store.options, cache_bytes=MIB)
        assert fs.cat_file(PATH) == fs.cat_file(PATH) == CONTENT
    assert caplog.text.count("Nothing is cached in") == 1


def test_the_folder_comes_from_the_environment_the_file_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOLDSHORT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_folder() == (tmp_path / "user" / "holdshort" / "objects" / "v1", "")
    (tmp_path / "holdshort.toml").write_text('cache = "fast"\n')
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    assert cache_folder() == (tmp_path / "fast" / "v1", "holdshort.toml")
    (tmp_path / "holdshort.toml").write_text("cache = 3\n")
    with pytest.raises(SettingsError, match=r"holdshort\.toml: cache is 3; name a folder"):
        cache_folder()
    monkeypatch.setenv("HOLDSHORT_CACHE", "/nvme")
    assert cache_folder() == (Path("/nvme/v1"), "HOLDSHORT_CACHE")


def test_the_kind_of_a_folders_file_system_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/root rw\n"
        "2 1 0:9 / /home rw shared:5 - nfs4 server:/home rw\n"
        r"3 2 0:9 / /home/my\040disk rw - xfs /dev/x rw" + "\n"
    )
    assert _file_system(Path("/homework"), mounts) == "ext4"
    assert _file_system(Path("/home/me/cache"), mounts) == "nfs4"
    assert _file_system(Path("/home/my disk/cache"), mounts) == "xfs"


def test_a_memory_cache_lies_in_memory_and_is_shared(store: FaultyS3, cache: Path) -> None:
    try:
        assert opened(store.options, cache="memory").cat_file(PATH) == CONTENT
        served = store.served_bytes
        queue: Any = multiprocessing.get_context("fork").Queue()
        child = multiprocessing.get_context("fork").Process(target=_reads_in_memory, args=(store.options, queue))
        child.start()
        assert queue.get(timeout=30) == DIGEST
        child.join()
        assert store.served_bytes == served
        assert not _files(cache)
    finally:
        for folder in existing():
            if folder.folder.is_relative_to("/dev/shm"):
                prune(folder, unused_s=0.0)


def _reads_in_memory(options: dict[str, Any], queue: Any) -> None:
    queue.put(hashlib.sha256(opened(options, cache="memory").cat_file(PATH)).hexdigest())


def test_the_commands_list_verify_and_prune(store: FaultyS3, cache: Path, tmp_path: Path) -> None:
    fs = opened(store.options)
    fs.cat_file(PATH)
    fs.cat_file("bkt/other/b.bin")
    commands = Commands(tmp_path, None)

    def run(*arguments: str, code: int = 0) -> Ran:
        return commands("cache", *arguments, code=code, HOLDSHORT_CACHE=str(cache.parent))

    listed = run("ls")
    assert "s3://bkt/data/a.bin" in listed.out
    assert "100%" in listed.out
    assert {each["path"] for each in run("ls", "--json").json} == {PATH, "bkt/other/b.bin"}
    assert "are what was written" in run("verify").out
    file = Path(run("ls", "--json").json[0]["file"])
    _flip(file, file.stat().st_size - 1)
    assert "16 KiB were not what had been written" in run("verify", code=1).err
    assert run("verify", "--json").json["ok"]
    assert "would remove 1 objects" in run("prune", "--to", "10MiB", "--dry-run").out
    assert len(_files(cache)) == 2
    assert "removed 1 objects" in run("prune", "--to", "10MiB").out
    assert "removed 0 objects" in run("prune", "--unused-for", "1h").out
    assert len(_files(cache)) == 1
    assert run("prune", "--all", "--json").json["removed"]
    assert f"Nothing is cached in {cache.parent} (HOLDSHORT_CACHE)." in " ".join(run("ls").err.split())
    assert "one of --to, --unused-for or --all" in run("prune", code=2).err
    assert "'many' is no size" in run("prune", "--to", "many", code=2).err


def test_a_cache_folder_that_is_removed_costs_no_read(store: FaultyS3, cache: Path) -> None:
    fs = opened(store.options, read_ahead="none")
    with fs.open(PATH) as file:
        assert file.read(MIB) == CONTENT[:MIB]
        shutil.rmtree(cache)
        assert file.read() == CONTENT[MIB:]
    assert fs.cat_file("bkt/other") == CONTENT


def test_a_mapped_object_stays_when_others_make_room(store: FaultyS3, cache: Path) -> None:
    opened(store.options).cat_file(PATH)
    folder = CacheFolder(cache, 100 * MIB)
    (entry,) = folder.entries()
    cached = folder.object(entry.subject)
    assert cached is not None
    pin = cached.pin()
    assert pin.acquire()
    assert prune(folder, unused_s=0.0) == []
    pin.close()
    assert len(prune(folder, unused_s=0.0)) == 1


@given(
    store=st.text(max_size=40),
    path=st.text(min_size=1, max_size=300),
    size=st.integers(1, 2**50),
    tag=st.text(max_size=60),
)
def test_a_header_says_what_was_written(store: str, path: str, size: int, tag: str) -> None:
    subject = Subject(store, path, size, tag)
    found = subject_of(subject.header())
    assert found is not None
    assert found[0] == subject
    assert subject.data_at % 65536 == 0, "there are machines with pages of that size"


def test_a_folder_of_somebody_else_is_no_place_for_a_cache(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can make folders of others")
    os.chown(tmp_path, 12345, -1)
    assert unusable(tmp_path) == "it belongs to another user"
