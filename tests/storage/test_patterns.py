"""What processes have seen of folders reaches those that come later, or read beside them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdshort.profiles import BUILT_IN
from holdshort.storage.explaining import explain, seen_at
from holdshort.storage.filesystem import TrainingFileSystem
from holdshort.storage.observing import Observing, Reads, is_worth_a_look
from holdshort.storage.patterns import Patterns
from support.commands import Commands
from support.faulty_s3 import FaultyS3
from support.waiting import eventually
from support.watching import MIB, STORE, read_auto, read_whole, tell_for_ever, watch

PATH = "bkt/data/a.bin"
spawned = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is told, for this test alone."""
    monkeypatch.setenv("HOLDSHORT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "v1" / "patterns"


def _watching() -> Observing:
    return Observing(BUILT_IN, Patterns(STORE), every_s=0.0)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if not path.name.startswith("."))


def _run(*processes: Any) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_a_worker_that_begins_anew_reads_at_once_as_the_others_have_learned() -> None:
    told = spawned.Queue()
    with FaultyS3(random.Random(1).randbytes(9 * MIB)).serving() as store:
        _run(spawned.Process(target=read_auto, args=(store.options, PATH, 3, told)))
        assert told.get() == "plain"
        asked = store.gets
        _run(spawned.Process(target=read_auto, args=(store.options, PATH, 3, told)))
        assert told.get() == "training"
        assert store.gets == asked  # it is in the cache, and known to come back unchanged


def test_ranks_that_read_one_object_are_seen_as_such() -> None:
    told, begin, until = spawned.Queue(), spawned.Barrier(3), spawned.Barrier(3)
    _run(*(spawned.Process(target=watch, args=(["bkt/w/a"], 64 * MIB, told, begin, until)) for _ in range(3)))
    for _ in range(3):
        found = told.get()
        assert found.startswith("serving: one object, many readers: 1 of 1 objects were read by others too"), found


def test_epochs_of_workers_that_begin_anew_are_seen_as_such() -> None:
    told = spawned.Queue()
    shards = [f"bkt/data/{n}" for n in range(6)]
    found: list[str] = []
    for _ in range(3):
        _run(spawned.Process(target=watch, args=(shards, 16 * MIB, told)))
        found.append(told.get())
    assert found[0].startswith("plain: object after object")
    for each in found[1:]:
        assert each.startswith("training: object after object, again and again: 6 of 6 objects came back, unchanged")


def test_a_forked_child_is_a_process_of_its_own(folder: Path) -> None:
    observing = _watching()
    read_whole(observing, PATH, 16 * MIB)
    child = os.fork()
    if not child:
        read_whole(observing, PATH, 16 * MIB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(_files(folder)) == 2


SIZES = [0, 100, 16 * 1024, 300_000, 5 * MIB]
STEPS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 0, 100, 7 * MIB]), st.sampled_from(SIZES)), min_size=1, max_size=60
)


@given(STEPS)
def test_reads_told_together_lead_to_what_each_by_itself_leads_to(steps: list[tuple[int, int]]) -> None:
    one_by_one, together = Observing(BUILT_IN), Observing(BUILT_IN)
    size = 64 * MIB
    reads = Reads(together, PATH, size)
    at = 0
    for count, (gap, length) in enumerate(steps, 1):
        start = (at + gap) % size
        one_by_one.tell("read", PATH, size=size, start=start, length=length)
        reads.read(start, length, is_told=is_worth_a_look(count))
        at = start + length
    reads.close()
    for told in (one_by_one, together):
        told.tell("open", PATH, size=size)  # it comes back
    assert one_by_one.choice(PATH) == together.choice(PATH)


class Told(Observing):
    """Keeps what it is told of reads: where, how much, and by how many."""

    def __init__(self) -> None:
        super().__init__(BUILT_IN)
        self.reads: list[tuple[int, int, int]] = []

    def tell(self, kind: Any, path: str, **event: Any) -> None:
        self.reads.append((event["start"], event["length"], event["reads"]))


def test_reads_in_order_are_told_once_in_a_while_and_when_the_file_is_closed() -> None:
    observing = Told()
    told, reads = observing.reads, Reads(observing, PATH, 64 * MIB)
    for block in range(40_000):  # as tarfile reads: a header, the data, and what pads it is left out
        reads.read(block * 1024, 600, is_told=False)
    reads.read(63 * MIB, 5, is_told=False)
    assert len(told) < 10
    reads.close()
    reads.close()
    assert sum(each[2] for each in told) == 40_001
    assert told[-2][0] + told[-2][1] == 39_999 * 1024 + 600
    assert told[-1] == (63 * MIB, 5, 1)


def test_of_threads_that_read_one_file_each_read_is_told_once() -> None:
    observing = Told()
    reads = Reads(observing, PATH, 64 * MIB)

    def read(first: int) -> None:
        for block in range(first, first + 5000):
            reads.read(block * 1000, 1000, is_told=False)

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(0, 20_000, 5000)))
    finally:
        sys.setswitchinterval(often)
    reads.close()
    assert sum(count for _, _, count in observing.reads) == 20_000
    covered = sorted(at for start, length, _ in observing.reads for at in range(start, start + length, 1000))
    assert covered == [block * 1000 for block in range(20_000)]


def test_what_is_broken_is_left_out_and_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    observing = _watching()
    read_whole(observing, PATH, 16 * MIB)
    (whole,) = _files(folder)
    told = json.loads(whole.read_bytes())
    for name, content in {
        "half": whole.read_bytes()[:100],
        "empty": b"",
        "newer": json.dumps({**told, "format": 2}).encode(),
        "other": json.dumps({**told, "pattern": {"name": "x", "profile": "?", "signals": [], "values": []}}).encode(),
        "wrong": json.dumps({**told, "marks": 3}).encode(),
        "large": b" " * 2**20,
    }.items():
        whole.with_name(f"{STORE}.{name}").write_bytes(content)
    for _ in range(2):
        assert len(Patterns(STORE).others("bkt/data", "me")) == 1
    warned = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 6
    assert all("is left out, it can't be read" in each for each in warned)


def test_what_is_old_no_longer_counts_and_goes(folder: Path) -> None:
    read_whole(_watching(), PATH, 16 * MIB)
    (old,) = _files(folder)
    os.utime(old, (time.time() - 8 * 86400,) * 2)
    assert Patterns(STORE).others("bkt/data", "me") == []
    read_whole(_watching(), PATH, 16 * MIB)
    assert old not in _files(folder)
    assert len(_files(folder)) == 1


def test_no_more_is_kept_of_a_folder_than_of_its_last_processes(folder: Path) -> None:
    for _ in range(40):
        read_whole(_watching(), PATH, 16 * MIB)
    assert len(_files(folder)) == 32
    assert sum(path.stat().st_size for path in _files(folder)) < 2**20


def test_a_killed_process_leaves_nothing_that_reads_as_something_else(folder: Path) -> None:
    process = spawned.Process(target=tell_for_ever)
    process.start()
    try:
        for _ in range(20):
            eventually(lambda: len(_files(folder)) == 1)
            assert len(Patterns(STORE).others("bkt/data", "me")) == 1
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    (told,) = Patterns(STORE).others("bkt/data", "me")
    assert told.marks


def test_where_nothing_can_be_kept_each_process_watches_for_itself(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    observing = _watching()
    for _ in range(2):
        read_whole(observing, PATH, 16 * MIB)
    choice = observing.choice(PATH)
    assert choice is not None
    assert choice.profile.name == "training"
    assert sum("can't be kept" in record.message for record in caplog.records) == 1


def test_other_stores_folders_of_the_same_name_are_others() -> None:
    read_whole(_watching(), PATH, 16 * MIB)
    assert len(Patterns(STORE).others("bkt/data", "me")) == 1
    assert Patterns("s3-other").others("bkt/data", "me") == []


def test_nothing_is_watched_or_told_but_by_auto(folder: Path) -> None:
    with FaultyS3(bytes(MIB)).serving() as store:
        fs = TrainingFileSystem(target_protocol="s3", target_options=store.options, skip_instance_cache=True)
        for _ in range(20):
            fs.cat_file(PATH)
    assert not folder.exists()


def test_explain_says_what_was_seen_by_whom_and_how_long_ago(tmp_path: Path) -> None:
    observing = _watching()
    for _ in range(2):
        read_whole(observing, PATH, 16 * MIB)
    choice, plan = explain("auto::s3://bkt/data/another.bin")
    assert (choice.source, plan.profile) == ("pattern", "training")
    values = {each.name: each for each in plan.applied}
    assert (values["read_ahead"].value, values["read_ahead"].source) == ("whole", "observed")
    assert [each.pattern is not None for each in seen_at("s3://bkt/data/x")] == [True]
    run = partial(Commands(tmp_path, None), HOLDSHORT_CACHE=os.environ["HOLDSHORT_CACHE"])
    said = run("profile", "explain", "auto::s3://bkt/data/another.bin").out
    assert said.startswith("training: object after object, again and again: 1 of 1 objects came back, unchanged")
    assert "What processes of this machine have seen there:" in said
    told = json.loads(run("profile", "explain", "auto::s3://bkt/data/another.bin", "--json").out)
    assert told["seen"][0]["pattern"] == "object after object, again and again"
    assert time.time() - 100 < told["seen"][0]["at_s"] <= time.time()
    assert json.loads(run("profile", "explain", "auto::s3://bkt/elsewhere/x", "--json").out)["seen"] == []
