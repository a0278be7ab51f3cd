"""A step in this node's cache: who reads it next finds it there, and what does not fit is said before it is fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from holdshort.jobs import RefusedJob
from holdshort.storage import checkpoints, load_safetensors
from holdshort.storage.caching.folder import CacheFolder
from holdshort.storage.caching.place import cache_folder
from holdshort.storage.checkpoints.manifest import CopiedFile, commit_manifest, file_path, manifest_path, read_manifest
from holdshort.storage.errors import Corrupt, NotAllowedNow, ObjectNotFound
from holdshort.storage.opening import open_store
from support.brokers import EmbeddedBroker
from support.checkpoints import MIB, House, content, folder_of, noise
from support.commands import Commands
from support.faulty_proxy import FaultyProxy
from support.holdshort import settings_for
from support.servers import SeaweedServer

FILES = {
    ".metadata": b"plan", "weights/0.bin": noise(20 * MIB + 17), "weights/1.bin": noise(3 * MIB, 3), "empty": b"",
}  # fmt: skip
TOTAL = sum(len(data) for data in FILES.values())


class Node:
    """A run on an S3 server that says what it was asked, and a cache of one's own."""

    def __init__(self, proxy: FaultyProxy, server: SeaweedServer, url: str) -> None:
        self.url = f"{url}/store/checkpoints/run"
        self.store_url = f"{url}/store"
        self.options = {**server.options, "endpoint_url": proxy.endpoint}
        self._proxy = proxy

    def fetched(self, act: Callable[[], Any]) -> int:
        """How many bytes of checkpoints' files come from the store while something is done."""
        before = len(self._proxy.asked)
        act()
        return sum(size for what, size in self._proxy.asked[before:] if self._is_file(what))

    def asked(self, act: Callable[[], Any]) -> int:
        """How often the store is asked for a file of a checkpoint meanwhile."""
        before = len(self._proxy.asked)
        act()
        return sum(self._is_file(what) for what, _ in self._proxy.asked[before:])

    def file_url(self, step: int, path: str) -> str:
        manifest = checkpoints.manifest_of(self.url, step, storage_options=self.options)
        return f"{self.store_url}/{file_path('run', step, manifest.attempt, path)}"

    @staticmethod
    def _is_file(what: str) -> bool:
        method, _, path = what.partition(" ")
        return method == "GET" and "/checkpoints/run/" in path and not path.endswith((".json", "/"))


@pytest.fixture
def node(s3_server: SeaweedServer, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    with FaultyProxy(s3_server.endpoint).serving() as proxy:
        yield Node(proxy, s3_server, s3_url)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "source", FILES)


def saved(node: Node, what: Any, step: int) -> None:
    checkpoints.save(what, node.url, step, storage_options=node.options)


def test_what_was_warmed_is_restored_without_asking_for_it(node: Node, source: Path, tmp_path: Path) -> None:
    saved(node, source, 100)
    seen: list[tuple[int, int]] = []
    found = checkpoints.warm(node.url, storage_options=node.options, progress=lambda *told: seen.append(told))
    assert (found.manifest.step, found.fetched_bytes, found.passed_over) == (100, TOTAL, ())
    assert found.cache.is_relative_to(tmp_path / "cache")
    assert seen[-1] == (TOTAL, TOTAL)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    out = tmp_path / "out"
    assert node.asked(lambda: checkpoints.restore(node.url, out, storage_options=node.options)) == 1, "the empty file"
    assert content(out) == FILES
    again = checkpoints.warm(node.url, storage_options=node.options)
    assert again.fetched_bytes == 0


def test_a_state_that_was_warmed_is_restored_from_the_cache(node: Node) -> None:
    saved(node, {"weights": np.arange(300_000.0), "step": 5}, 5)
    checkpoints.warm(node.url, storage_options=node.options)
    found: list[Any] = []
    assert node.asked(lambda: found.append(checkpoints.restore(node.url, storage_options=node.options))) == 0
    assert np.array_equal(found[0].state["weights"], np.arange(300_000.0))


def test_what_was_not_warmed_is_fetched_as_ever(node: Node, source: Path, tmp_path: Path) -> None:
    saved(node, source, 100)
    fetched = node.fetched(lambda: checkpoints.restore(node.url, tmp_path / "out", storage_options=node.options))
    assert fetched >= TOTAL
    assert content(tmp_path / "out") == FILES


def test_a_run_in_a_folder_of_its_own_is_warmed_as_well(node: Node, source: Path, tmp_path: Path) -> None:
    url = f"{node.store_url}/checkpoints/run/elsewhere/7"  # of no store, but below what is counted
    checkpoints.save(source, url, 1, storage_options=node.options)
    assert checkpoints.warm(url, storage_options=node.options).fetched_bytes == TOTAL
    out = tmp_path / "out"
    assert node.asked(lambda: checkpoints.restore(url, out, storage_options=node.options)) == 1, "the empty file"
    assert content(out) == FILES


def test_serving_readers_find_what_was_warmed(node: Node, source: Path) -> None:
    saved(node, source, 100)
    checkpoints.warm(node.url, storage_options=node.options)
    url = node.file_url(100, "weights/0.bin")

    def read() -> None:
        with fsspec.open(f"serving::{url}", s3=node.options) as file:
            assert file.read() == FILES["weights/0.bin"]

    assert node.asked(read) == 0, "it was asked a moment ago what it is"
    # Another process asks what the object is, and gets its beginning with the answer.
    program = (
        "import fsspec, hashlib, os, sys\n"
        "with fsspec.open(sys.argv[1], s3=eval(sys.argv[2])) as file:\n"
        "    print(hashlib.sha256(file.read()).hexdigest())\n"
    )

    def read_elsewhere() -> None:
        subprocess.run(
            [sys.executable, "-c", program, f"serving::{url}", repr(node.options)], check=True, env=os.environ.copy(),
            capture_output=True, timeout=60,
        )  # fmt: skip

    assert 0 < node.fetched(read_elsewhere) <= 256 * 1024


def test_weights_that_were_warmed_are_loaded_from_the_cache(node: Node) -> None:
    weights = np.arange(1_000_000.0)
    saved(node, {"weights": weights}, 5)
    checkpoints.warm(node.url, storage_options=node.options)
    manifest = checkpoints.manifest_of(node.url, storage_options=node.options)
    path = next(file.path for file in manifest.files if file.path.endswith(".safetensors"))
    url, found = node.file_url(5, path), dict[str, Any]()
    assert node.asked(lambda: found.update(load_safetensors(url, s3=node.options))) == 0
    assert any(np.array_equal(each, weights) for each in found.values())


def test_a_step_that_is_not_whole_is_not_warmed_but_the_one_before(node: Node, source: Path) -> None:
    saved(node, source, 100)
    saved(node, source, 200)
    fs = fsspec.filesystem("s3", **node.options)
    at = node.file_url(200, "weights/1.bin")
    fs.pipe_file(at, b"!" + FILES["weights/1.bin"][1:])
    found = checkpoints.warm(node.url, storage_options=node.options)
    assert found.manifest.step == 100
    assert [step for step, _ in found.passed_over] == [200]
    assert "weights/1.bin has CRC32C" in found.passed_over[0][1]
    with pytest.raises(Corrupt, match=r"weights/1\.bin has CRC32C"):
        checkpoints.warm(node.url, 200, storage_options=node.options)
    saved(node, source, 300)
    fs.rm_file(node.file_url(300, "weights/0.bin"))
    with pytest.raises(Corrupt, match="missing"):
        checkpoints.warm(node.url, 300, storage_options=node.options)
    with pytest.raises(ObjectNotFound):
        checkpoints.warm(node.url, 400, storage_options=node.options)
    kept = {entry.subject.path for entry in CacheFolder(cache_folder()[0], 1).entries()}
    assert at.removeprefix("s3://") not in kept, "what is wrong does not stay"


def test_what_the_cache_may_not_hold_is_said_before_anything_is_fetched(node: Node, source: Path) -> None:
    saved(node, source, 100)
    huge = CopiedFile("weights/0.bin", 2**60, "00000000")
    store = open_store(node.store_url, storage_options=node.options)
    commit_manifest(store, "run", 200, attempt="attempt", files=[huge])

    def refused() -> None:
        with pytest.raises(NotAllowedNow, match=r"step 200 of run .*may hold .*Nothing was fetched") as told:
            checkpoints.warm(node.url, storage_options=node.options)
        assert f"{2**60:,} bytes" in str(told.value)

    assert node.asked(refused) == 0
    assert checkpoints.warm(node.url, 100, storage_options=node.options).fetched_bytes == TOTAL


def test_bits_that_flip_in_the_cache_are_fetched_again(node: Node, source: Path, tmp_path: Path) -> None:
    saved(node, source, 100)
    found = checkpoints.warm(node.url, storage_options=node.options)
    largest = max(found.cache.glob("objects/*/*.object"), key=lambda path: path.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"flip")
    checkpoints.restore(node.url, tmp_path / "out", storage_options=node.options)
    assert content(tmp_path / "out") == FILES
    assert checkpoints.warm(node.url, storage_options=node.options).fetched_bytes > 0


def test_a_store_of_this_machine_needs_no_warming(tmp_path: Path, source: Path) -> None:
    checkpoints.save(source, tmp_path / "runs" / "7", 1)
    with pytest.raises(NotAllowedNow, match="lies on this machine"):
        checkpoints.warm(tmp_path / "runs" / "7")


# -- as a job --------------------------------------------------------------------------------------------


@pytest.fixture
def house(node: Node) -> House:
    return House(open_store(node.store_url, storage_options=node.options))


def test_a_job_without_a_folder_warms_the_cache_of_its_worker(
    house: House, node: Node, source: Path, tmp_path: Path
) -> None:
    house.saved(source, 100)
    record = house.submit(action="restore")
    assert record.size_bytes == TOTAL
    assert node.fetched(house.drain) >= TOTAL
    outcome = house.outcome(record)
    assert (outcome.state, outcome.reason) == ("completed", "")
    slices = [row.custom_id for row in house.results(record)]
    assert "100/weights/0.bin//2" in slices, "by slices"
    out = tmp_path / "out"
    assert node.asked(lambda: checkpoints.restore(node.url, out, storage_options=node.options)) == 1, "the empty file"
    assert content(out) == FILES
    assert node.fetched(lambda: house.run(action="restore")) == 0, "what is there is not fetched again"


def test_a_job_goes_on_where_another_worker_has_left_off(house: House, node: Node, source: Path) -> None:
    house.saved(source, 100)
    record = house.submit(action="restore", max_parallelism=1)
    first = house.runner(quantum_s=1e-6)
    before = node.fetched(lambda: first.advance(house.queue.popleft(), redelivered=False))
    assert 0 < before < TOTAL
    assert node.fetched(house.drain) < TOTAL
    assert house.outcome(record).state == "completed"


def test_a_worker_of_another_node_says_so(
    house: House, node: Node, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.saved(source, 100)
    record = house.submit(action="restore", max_parallelism=1)
    house.runner(quantum_s=1e-6).advance(house.queue.popleft(), redelivered=False)
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache of another node"))
    house.drain()
    assert house.outcome(record).state == "failed"
    errors = {row.error["code"]: row.error["message"] for row in house.results(record) if row.error}
    assert list(errors) == ["cache_unusable"]
    assert "another node" in errors["cache_unusable"]


def test_a_job_whose_step_has_no_room_fetches_nothing(house: House, node: Node, source: Path) -> None:
    house.saved(source, 100)
    record = house.submit(action="restore", max_attempts=1)
    manifest = read_manifest(house.store, "run", 100)
    house.store.delete(manifest_path("run", 100))  # the step itself would fit on any machine
    huge = [*manifest.files, CopiedFile("huge", 2**60, "00000000")]
    commit_manifest(house.store, "run", 100, attempt=manifest.attempt, files=huge)
    assert node.asked(house.drain) == 0
    outcome = house.outcome(record)
    assert outcome.state == "failed"
    assert "may hold" in outcome.reason
    assert "Nothing was fetched" in outcome.reason


def test_damaged_files_fail_the_job_and_do_not_stay_in_the_cache(house: House, node: Node, source: Path) -> None:
    house.saved(source, 100)
    house.flip(100, "weights/1.bin")
    outcome = house.run(action="restore", step=100)
    assert outcome.state == "failed"
    assert "weights/1.bin" in outcome.reason
    assert "CRC32C" in outcome.reason
    kept = {entry.subject.path for entry in CacheFolder(cache_folder()[0], 1).entries()}
    assert node.file_url(100, "weights/1.bin").removeprefix("s3://") not in kept


def test_a_job_of_a_store_on_this_machine_is_refused(tmp_path: Path, source: Path) -> None:
    house = House(open_store(str(tmp_path / "store")))
    house.saved(source, 100)
    with pytest.raises(RefusedJob, match=r"to: .* Nothing was submitted"):
        house.submit(action="restore")


def test_by_the_command(node: Node, source: Path, tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    settings = settings_for(tmp_path, broker.url, store=node.store_url, store_options=node.options)
    run = Commands(tmp_path, settings)
    cache = str(tmp_path / "cache")
    saved(node, source, 100)
    told = run("checkpoint", "restore", "run", "--warm", "--json", HOLDSHORT_CACHE=cache).json
    assert (told["step"], told["bytes"], told["fetched_bytes"], told["passed_over"]) == (100, TOTAL, TOTAL, [])
    assert told["cache"].startswith(cache)
    assert "in the cache" in run("checkpoint", "restore", "run", "--warm", HOLDSHORT_CACHE=cache).out
    assert node.asked(lambda: run("checkpoint", "restore", "run", "out", HOLDSHORT_CACHE=cache)) == 1, "the empty file"
    assert content(tmp_path / "out") == FILES
    assert "--warm" in run("checkpoint", "restore", "run", code=2).err
    run("checkpoint", "restore", "run", "out2", "--warm", code=2)
