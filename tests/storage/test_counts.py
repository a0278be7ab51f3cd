"""What a scan has counted decides where data is cached, and opening a file counts nothing by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from holdshort.profiles import Applied
from holdshort.storage.caching.folder import CacheFolder
from holdshort.storage.caching.tending import existing, prune
from holdshort.storage.counts import Counts
from holdshort.storage.scanning import scan
from holdshort.storage.settings import ScanLimits
from support.caching import opened
from support.commands import Commands
from support.faulty_gcs import FaultyGcs
from support.servers import SeaweedServer

CONTENT = b"0123456789abcdef" * 4096


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of this test's own; the one in memory is this machine's."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for folder in existing():
        if _is_in_memory(folder):
            prune(folder, unused_s=0.0)


@pytest.fixture
def gcs() -> Iterator[FaultyGcs]:
    store = FaultyGcs()
    with store.serving():
        yield store


def _is_in_memory(folder: CacheFolder) -> bool:
    return folder.folder.is_relative_to("/dev/shm")


def _kept(path: str) -> list[str]:
    """In which caches an object lies."""
    return [
        "memory" if _is_in_memory(folder) else "disk"
        for folder in existing()
        for entry in folder.entries()
        if entry.subject.path == path and entry.held_bytes
    ]


def test_a_set_that_was_counted_and_is_small_is_kept_in_memory(
    cache: Path, s3_server: SeaweedServer, s3_url: str
) -> None:
    options, place = s3_server.options, s3_url.removeprefix("s3://")
    fs = opened(options)
    for name in ("set/1.tar", "set/2.tar", "other/1.tar"):
        fs.pipe_file(f"{place}/{name}", CONTENT)
    assert fs.cat_file(f"{place}/set/1.tar") == CONTENT
    assert not (cache / "scans").exists(), "opening an object counts nothing"
    scan(f"{s3_url}/set", storage_options=options)
    fs = opened(options)
    for name in ("set/2.tar", "other/1.tar"):
        assert fs.cat_file(f"{place}/{name}") == CONTENT
    assert _kept(f"{place}/set/1.tar") == ["disk"], "it was not known then"
    assert _kept(f"{place}/set/2.tar") == ["memory"]
    assert _kept(f"{place}/other/1.tar") == ["disk"], "of it nothing is known"
    values = {each.name: each for each in fs.explain(f"{place}/set/2.tar")[1].applied}
    assert values["cache"] == Applied(
        "cache", "memory", "data", f"there is room for all 128 KiB under {s3_url}/set, and as much again"
    )


def test_what_the_user_says_comes_before_what_was_counted(cache: Path, s3_server: SeaweedServer, s3_url: str) -> None:
    options, place = s3_server.options, s3_url.removeprefix("s3://")
    opened(options).pipe_file(f"{place}/1.tar", CONTENT)
    scan(s3_url, storage_options=options)
    assert opened(options, cache="disk").cat_file(f"{place}/1.tar") == CONTENT
    assert _kept(f"{place}/1.tar") == ["disk"]


def test_the_nearest_count_above_counts_while_it_is_fresh_and_whole(gcs: FaultyGcs, tmp_path: Path) -> None:
    fs: Any = fsspec.filesystem("gs", **gcs.options)
    for name in ("data/a/1", "data/a/2", "data/b/1"):
        gcs.put(name, CONTENT)
    folder, now_s = tmp_path / "scans", 1000.0

    def counted(path: str) -> tuple[str, int] | None:
        found = Counts(fs, folder=folder, fresh_s=100.0, clock=lambda: now_s).of(path)
        return found and (found.url, found.size.objects)

    def count(path: str, **limits: Any) -> None:
        where = {"storage_options": gcs.options, "folder": folder, "clock": lambda: now_s}
        scan(f"gs://bkt/{path}", limits=ScanLimits(fresh_s=100.0, **limits), **where)

    count("data", most_s=1e-9)
    assert counted("bkt/data/a/1") is None
    count("data")
    assert counted("bkt/data/a/1") == counted("bkt/data") == ("gs://bkt/data", 3)
    assert counted("bkt/database/1") is None
    count("data/a")
    assert counted("bkt/data/a/1") == ("gs://bkt/data/a", 2)
    assert counted("bkt/data/b/1") == ("gs://bkt/data", 3)
    now_s = 1100.0
    assert counted("bkt/data/a/1") is None


def test_a_count_is_noticed_by_who_has_looked_before_and_one_that_is_broken_is_none(
    gcs: FaultyGcs, tmp_path: Path
) -> None:
    gcs.put("data/1", CONTENT)
    folder = tmp_path / "scans"
    counts = Counts(fsspec.filesystem("gs", **gcs.options), folder=folder, every_s=0.0)
    assert counts.of("bkt/data/1") is None
    scan("gs://bkt/data", storage_options=gcs.options, folder=folder)
    assert counts.of("bkt/data/1") is not None
    (left,) = folder.iterdir()
    (folder / "aside").write_text("{")
    os.replace(folder / "aside", left)
    assert counts.of("bkt/data/1") is None


def test_explain_says_what_follows_from_the_scan_then_and_later(
    cache: Path, tmp_path: Path, s3_server: SeaweedServer, s3_url: str
) -> None:
    opened(s3_server.options).pipe_file(f"{s3_url.removeprefix('s3://')}/set/1.tar", CONTENT)
    run = Commands(tmp_path, None)
    reach = {
        "FSSPEC_S3_KEY": s3_server.KEY, "FSSPEC_S3_SECRET": s3_server.SECRET, "AWS_REGION": "us-east-1",
        "FSSPEC_S3_ENDPOINT_URL": s3_server.endpoint, "HOLDSHORT_CACHE": str(cache),
    }  # fmt: skip

    def told(url: str, *more: str) -> dict[str, tuple[Any, str]]:
        values = json.loads(run("profile", "explain", url, "--json", *more, **reach).out)["values"]
        return {each["name"]: (each["value"], each["source"]) for each in values}

    assert told(f"training::{s3_url}/set")["cache"] == ("disk", "this node")
    assert told(f"training::{s3_url}/set", "--scan")["cache"] == ("memory", "data")
    later = told(f"training::{s3_url}/set/1.tar")
    assert (later["cache"], later["cache_bytes"][1]) == (("memory", "data"), "data")
    assert told(f"serving::{s3_url}/set/1.tar")["cache"] == ("disk", "profile serving")
    assert told(f"training::{s3_url}/other")["cache"] == ("disk", "this node")
