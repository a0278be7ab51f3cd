"""How much lies under a URL: counted right, in bounded steps, by whoever goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdshort.jobs import Settings
from holdshort.profiles.sizing import DataSize
from holdshort.storage.errors import ObjectNotFound, SettingsError, StoreUnavailable
from holdshort.storage.scanning import scan
from holdshort.storage.settings import ScanLimits
from support.commands import Commands
from support.faulty_gcs import FaultyGcs
from support.ports import free_ports
from support.scanning import scan_to_the_end
from support.waiting import eventually

NAMES = [f"{folder}{number}" for folder in ("", "a/", "a.x/", "a-b/", "a/inner/deep/", "z/") for number in range(8)]
STEP = ScanLimits(most_objects=5)


@dataclass
class Place:
    """Where data lies."""

    kind: str
    url: str
    folder: Path
    options: dict[str, Any] = field(default_factory=dict)

    def put(self, names: list[str], size: int = 3) -> None:
        fs, path = fsspec.url_to_fs(self.url, **self.options)
        for name in names:
            fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
            fs.pipe_file(f"{path}/{name}", b"x" * size)

    def scan(self, below: str = "", **given: Any) -> DataSize:
        return scan(self.url + below, storage_options=self.options, folder=self.folder, **given)


@pytest.fixture
def gcs() -> Iterator[FaultyGcs]:
    store = FaultyGcs()
    store.page = 10
    with store.serving():
        yield store


@pytest.fixture(params=["local", "s3", "gs", "gs emulator", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("holdshort.storage.listing._PAGE", 10)
    kind, folder = request.param, tmp_path / "scans"
    match kind:
        case "local":
            return Place(kind, f"{tmp_path}/data", folder)
        case "memory":
            return Place(kind, f"memory://{tmp_path.name}/data", folder)
        case "s3":
            options = request.getfixturevalue("s3_server").options
            return Place(kind, f"{request.getfixturevalue('s3_url')}/data", folder, options)
        case _:
            server = request.getfixturevalue("gcs" if kind == "gs" else "gcs_emulator")
            bucket = "bkt" if kind == "gs" else server.BUCKET
            return Place(kind, f"gs://{bucket}/{tmp_path.name}/data", folder, {**server.options})


def test_all_that_lies_under_a_url_is_counted_and_nothing_beside_it(place: Place) -> None:
    place.put(NAMES)
    Place(place.kind, place.url + "-other", place.folder, place.options).put(["1"])
    found = place.scan()
    assert (found.objects, found.bytes, found.is_whole) == (len(NAMES), 3 * len(NAMES), True)
    below = place.scan("/a/")
    assert (below.objects, below.is_whole) == (16, True)
    assert place.scan("/a/3").objects == 1
    for nothing in ("/none", "/a/nothing/here"):
        with pytest.raises(ObjectNotFound, match=r"Nothing lies under .*/no"):
            place.scan(nothing)


def test_a_scan_that_reaches_a_limit_says_so_and_is_gone_on_with_where_it_stopped(place: Place) -> None:
    place.put(NAMES)
    if place.kind in ("memory", "gs emulator"):
        pytest.skip("the one is not listed in pages, the other can't be taken up again")
    steps: list[DataSize] = []
    while not steps or not steps[-1].is_whole:
        steps.append(place.scan(limits=STEP))
        assert len(steps) < 20
    assert len(steps) > 3
    assert [step.is_whole for step in steps] == [False] * (len(steps) - 1) + [True]
    assert all(step.objects < then.objects for step, then in pairwise(steps[:-1]))
    assert (steps[-1].objects, steps[-1].bytes) == (len(NAMES), 3 * len(NAMES))
    assert all(step.bytes == 3 * step.objects for step in steps)


def test_time_bounds_a_scan_too(place: Place) -> None:
    place.put(NAMES)
    found = place.scan(limits=ScanLimits(most_s=1e-9))
    assert not found.is_whole or place.kind == "gs emulator"
    assert 0 < found.objects <= len(NAMES)


# -- what is remembered ----------------------------------------------------------------------------------


def test_a_whole_count_counts_until_it_is_too_old_and_then_until_there_is_a_new_one(
    gcs: FaultyGcs, tmp_path: Path
) -> None:
    place = Place("gs", "gs://bkt/data", tmp_path / "scans", gcs.options)
    place.put(NAMES)
    limits = ScanLimits(most_objects=30, fresh_s=100.0)
    first = place.scan(clock=lambda: 1000.0)
    assert (first.objects, first.scanned_at) == (len(NAMES), 1000.0)
    place.put([f"new/{number}" for number in range(9)])
    gcs.asked.clear()
    assert place.scan(limits=limits, clock=lambda: 1099.0) == first
    assert not gcs.asked
    # Too old now: it is counted anew, and the old count is said until the new one is whole.
    assert place.scan(limits=limits, clock=lambda: 1100.0) == first
    assert gcs.asked
    last = place.scan(limits=limits, clock=lambda: 1101.0)
    assert (last.objects, last.is_whole, last.scanned_at) == (len(NAMES) + 9, True, 1101.0)


def test_a_scan_begun_too_long_ago_is_not_gone_on_with(gcs: FaultyGcs, tmp_path: Path) -> None:
    place = Place("gs", "gs://bkt/data", tmp_path / "scans", gcs.options)
    place.put(NAMES)
    limits = ScanLimits(most_objects=10, fresh_s=100.0)
    assert place.scan(limits=limits, clock=lambda: 1000.0).objects == 10
    assert place.scan(limits=limits, clock=lambda: 1050.0).objects == 29
    assert place.scan(limits=limits, clock=lambda: 1100.0).objects == 10


def test_each_store_and_path_has_its_own_count(gcs: FaultyGcs, tmp_path: Path) -> None:
    place = Place("gs", "gs://bkt/data", tmp_path / "scans", gcs.options)
    place.put(["1", "a/1"])
    with FaultyGcs().serving() as other:
        there = Place("gs", "gs://bkt/data", tmp_path / "scans", other.options)
        there.put(["1", "2", "3"])
        assert (place.scan().objects, there.scan().objects, place.scan("/a").objects) == (2, 3, 1)
    assert place.scan().objects == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"whole": {"objects": 1}, "run": null}', '{"whole": 3, "run": 4}'])
def test_what_was_left_and_cant_be_used_is_counted_anew(tmp_path: Path, content: str) -> None:
    place = Place("local", f"{tmp_path}/data", tmp_path / "scans")
    place.put(NAMES)
    assert place.scan(limits=STEP).objects < len(NAMES)
    (left,) = place.folder.iterdir()
    left.write_text(content)
    assert place.scan().objects == len(NAMES)


def test_where_nothing_can_be_left_it_is_counted_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scans").write_text("no folder")
    place = Place("local", f"{tmp_path}/data", tmp_path / "scans")
    place.put(NAMES)
    assert place.scan().objects == len(NAMES)
    assert "can't be left in" in caplog.text


# -- several processes -----------------------------------------------------------------------------------


def test_two_processes_that_scan_at_once_both_count_right(gcs: FaultyGcs, tmp_path: Path) -> None:
    place = Place("gs", "gs://bkt/data", tmp_path / "scans", gcs.options)
    for number in range(200):
        gcs.put(f"data/{number:04}", b"123")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (place.url, place.options, place.folder, queue)
    children = [context.Process(target=scan_to_the_end, args=arguments) for _ in range(2)]
    for child in children:
        child.start()
    assert [queue.get(timeout=60) for _ in children] == [(200, 600)] * 2
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0
    assert [each.suffix for each in place.folder.iterdir()] == [".json"]


def test_a_scan_that_was_killed_is_gone_on_with(gcs: FaultyGcs, tmp_path: Path) -> None:
    place = Place("gs", "gs://bkt/data", tmp_path / "scans", gcs.options)
    for number in range(400):
        gcs.put(f"data/{number:04}", b"123")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=scan_to_the_end, args=(place.url, place.options, place.folder))
    child.start()
    eventually(lambda: list(place.folder.glob("*.json")), timeout=60, every=0.01, what="something is counted")
    child.kill()
    child.join()
    gcs.asked.clear()
    assert scan_to_the_end(place.url, place.options, place.folder).objects == 400
    assert "startOffset=data/" in gcs.asked[0]


# -- folders ---------------------------------------------------------------------------------------------

TREES = st.lists(
    st.lists(st.sampled_from(["a", "b", "a.x", "a-", "a b", "A", "aa"]), min_size=1, max_size=4), max_size=25
)


@given(TREES)
@example([["a", "b"], ["a.x", "b"], ["a-", "b"], ["a", "a", "b"]])
@settings(max_examples=60)
def test_in_whatever_steps_a_folder_is_counted_each_file_counts_once(tree: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        for number, parts in enumerate(tree):
            (data / "/".join(f"{part}.d" for part in parts[:-1])).mkdir(parents=True, exist_ok=True)
            (data / "/".join(f"{part}.d" for part in parts[:-1]) / f"{parts[-1]}-{number}").write_bytes(b"xy")
        for _ in range(200):
            found = scan(str(data), folder=Path(folder, "scans"), limits=ScanLimits(most_objects=1))
            if found.is_whole:
                break
        assert (found.objects, found.bytes) == (len(tree), 2 * len(tree))


def test_links_to_folders_are_not_followed_and_broken_ones_are_nothing(tmp_path: Path) -> None:
    place = Place("local", f"{tmp_path}/data", tmp_path / "scans")
    place.put(["a/1", "2"])
    os.symlink(tmp_path / "data", tmp_path / "data/a/loop")
    os.symlink("nowhere", tmp_path / "data/broken")
    assert place.scan().objects == 2


# -- wrong use -------------------------------------------------------------------------------------------


def test_a_store_that_does_not_answer_is_said_and_what_was_counted_is_kept(tmp_path: Path) -> None:
    options = {
        "key": "k", "secret": "s", "endpoint_url": f"http://127.0.0.1:{free_ports(1)[0]}",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1}, "skip_instance_cache": True,
    }  # fmt: skip
    with pytest.raises(StoreUnavailable, match=r"s3://bucket/data can't be listed: .*scan again to go on"):
        scan("s3://bucket/data", storage_options=options, folder=tmp_path)


def test_a_bucket_that_is_not_there_is_said(s3_server: Any, gcs: FaultyGcs, tmp_path: Path) -> None:
    with pytest.raises(ObjectNotFound, match="no-such-bucket"):
        scan("s3://no-such-bucket/data", storage_options=s3_server.options, folder=tmp_path)
    with pytest.raises(ObjectNotFound, match="no-such-bucket"):
        scan("gs://no-such-bucket/data", storage_options=gcs.options, folder=tmp_path)


@pytest.mark.parametrize(
    ("table", "said"),
    [("most_s = 0", "scan.most_s is 0; it has to be a number above 0"), ("seconds = 3", "scan has no key 'seconds'")],
)
def test_limits_that_cant_be_used_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, said: str
) -> None:
    (tmp_path / "holdshort.toml").write_text(f"[scan]\n{table}\n")
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    with pytest.raises(SettingsError, match=r"holdshort\.toml") as caught:
        scan(str(tmp_path))
    assert said in str(caught.value)
    with pytest.raises(SettingsError):
        Settings.load()


def test_limits_come_from_the_environment_and_then_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "holdshort.toml").write_text("[scan]\nmost_s = 7\nmost_objects = 9\n")
    monkeypatch.setenv("HOLDSHORT_CONFIG", str(tmp_path / "holdshort.toml"))
    monkeypatch.setenv("HOLDSHORT_SCAN", '{"most_objects": 4}')
    assert ScanLimits.load() == ScanLimits(most_s=7, most_objects=4)
    monkeypatch.setenv("HOLDSHORT_SCAN", "{")
    with pytest.raises(SettingsError, match="HOLDSHORT_SCAN"):
        ScanLimits.load()


def test_the_command_says_how_much_lies_there_and_when_it_was_counted(
    tmp_path: Path, s3_server: Any, s3_url: str
) -> None:
    run = Commands(tmp_path, None)
    Place("s3", f"{s3_url}/data", tmp_path, s3_server.options).put(NAMES)
    reach = {
        "FSSPEC_S3_KEY": s3_server.KEY, "FSSPEC_S3_SECRET": s3_server.SECRET, "AWS_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": s3_server.endpoint, "HOLDSHORT_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    url = f"training::{s3_url}/data"
    said = run("profile", "explain", url, "--scan", **reach).out
    assert "Under it lie 48 objects, 144 B (counted 0s ago)." in said
    told = json.loads(run("profile", "explain", url, "--scan", "--json", **reach).out)
    assert told["data"].pop("scanned_at") > 0
    assert told["data"] == {"objects": 48, "bytes": 144, "is_whole": True}
    assert told["profile"] == "training"
    Place("local", f"{tmp_path}/many", tmp_path).put(NAMES)
    limits = json.dumps({"most_objects": 10})
    said = run("profile", "explain", f"{tmp_path}/many", "--scan", HOLDSHORT_SCAN=limits, **reach).out
    assert "Under it lie at least 16 objects, 48 B: it was not counted to the end." in said
    assert "none" in run("profile", "explain", f"{tmp_path}/none", "--scan", code=4, **reach).err
