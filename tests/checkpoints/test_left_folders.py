"""What a restore leaves when its worker is killed, and nobody of its host sees it end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from holdshort.jobs.checkpoints.abandoned import ABANDONED_AGE_S
from holdshort.jobs.checkpoints.left_folders import sweep_left
from holdshort.jobs.checkpoints.places import Places
from holdshort.jobs.identity import new_id
from holdshort.jobs.record import JobRecord
from holdshort.jobs.settling import settle
from holdshort.storage.opening import open_store
from support.checkpoints import SLICE, House, content, folder_of, noise
from support.restoring import killed_while_it_restores

FILES = {"weights.bin": noise(3 * SLICE), "small": b"x"}


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(open_store(str(tmp_path / "store")))
    house.saved(folder_of(tmp_path / "source", FILES), 100)
    return house


def killed(house: House, tmp_path: Path) -> tuple[JobRecord, Path]:
    """A restore whose worker was killed in the middle, and what it left."""
    record = house.submit(action="restore", to=str(tmp_path / "out" / "first"), max_parallelism=1)
    message = house.queue.popleft()
    worker = multiprocessing.get_context("spawn").Process(
        target=killed_while_it_restores, args=(str(tmp_path / "store"), message)
    )
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    left = tmp_path / "out" / f".first.restoring-{record.id}"
    assert left.is_dir()
    return record, left


def cancelled_elsewhere(house: House, record: JobRecord, left: Path) -> None:
    """A controller of another host ends the job; it does not see the folder."""
    unseen = left.parent.parent / "unseen"
    left.parent.rename(unseen)
    house.ledger.cancel(record.id, "")
    house.ledger.end_stripe(record, 0, "cancelled", by="controller")
    assert settle(house.ledger, record, Places({})) is not None
    unseen.rename(left.parent)
    assert left.is_dir()


def test_the_next_restore_beside_it_removes_what_a_killed_worker_of_a_cancelled_job_left(
    house: House, tmp_path: Path
) -> None:
    record, left = killed(house, tmp_path)
    cancelled_elsewhere(house, record, left)
    assert house.run(action="restore", to=str(tmp_path / "out" / "second")).state == "completed"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]
    assert content(tmp_path / "out" / "second") == FILES


def test_a_restore_that_goes_on_is_not_touched(house: House, tmp_path: Path) -> None:
    record, left = killed(house, tmp_path)
    house.queue.clear()
    assert house.run(action="restore", to=str(tmp_path / "out" / "second")).state == "completed"
    assert left.is_dir(), "its job has not ended: another worker goes on with it"
    assert sweep_left(left.parent, house.store, now=time.time() + 2 * ABANDONED_AGE_S) == []
    assert house.ledger.outcome(record.id) is None


def test_what_no_job_of_the_store_knows_goes_after_a_week(house: House, tmp_path: Path) -> None:
    left = tmp_path / f".x.restoring-{new_id()}"
    folder_of(left / "files", {"a": b"a"})
    mine = folder_of(tmp_path / ".x.restoring-it-by-hand", {"a": b"a"})
    now = time.time()
    for path in (left, left / "files"):
        os.utime(path, (now - 2 * ABANDONED_AGE_S,) * 2)
    assert sweep_left(tmp_path, house.store, now=now) == [], "a file in it was just written"
    os.utime(left / "files" / "a", (now - 2 * ABANDONED_AGE_S,) * 2)
    assert sweep_left(tmp_path, house.store, now=now) == [left]
    assert not left.exists()
    assert mine.exists()
    assert sweep_left(tmp_path / "nowhere", house.store, now=now) == []
