"""A restore job of the latest step that is not whole goes on with the newest older one that is, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdshort.jobs.broker.message import Message
from holdshort.jobs.record import JobRecord
from holdshort.storage.checkpoints.manifest import manifest_path
from holdshort.storage.errors import RefusedJob
from holdshort.storage.opening import open_store
from support.checkpoints import SLICE, House, content, folder_of, noise


def files(step: int) -> dict[str, bytes]:
    """What a step holds."""
    return {"weights.bin": noise(2 * SLICE + 5, step), "small": str(step).encode()}


@pytest.fixture
def house(tmp_path: Path) -> House:
    house = House(open_store(str(tmp_path / "store")))
    for step in (100, 200, 300):
        house.saved(folder_of(tmp_path / f"source-{step}", files(step)), step)
    return house


def queued(house: House) -> list[JobRecord]:
    """Publish the messages of jobs that were accepted without any, as a controller does; returns those jobs."""
    found = [house.ledger.record(job) for job in house.ledger.unpublished()]
    for record in found:
        house.queue.extend(Message("embed", record.id, stripe, 1, 4) for stripe in range(record.stripes))
        house.ledger.published(record.id)
    return found


def submitted(house: House, **spec: object) -> JobRecord:
    record = house.submit(action="restore", **spec)
    house.ledger.published(record.id)
    return record


@pytest.fixture(autouse=True)
def nothing_waits(house: House) -> None:
    for job in house.ledger.unpublished():
        house.ledger.published(job)


@pytest.mark.parametrize("damage", ["a flipped bit of a small file", "a flipped bit of a large file", "a missing file"])
def test_the_newest_step_that_is_whole_is_restored_and_the_outcome_says_so(
    house: House, tmp_path: Path, damage: str
) -> None:
    if damage == "a missing file":
        house.store.delete(house.at(300, "weights.bin"))
    else:
        house.flip(300, "small" if "small" in damage else "weights.bin")
    record = submitted(house, to=str(tmp_path / "out" / "here"))
    house.drain()
    assert house.ledger.outcome(record.id) is None, "it waits for the job that goes on"
    (older,) = queued(house)
    assert older.spec["step"] == 200
    house.drain()
    outcome = house.outcome(record)
    assert outcome.state == "completed"
    assert "step 300 is not whole" in outcome.reason
    assert f"step 200 was restored instead, by job {older.id}" in outcome.reason
    assert content(tmp_path / "out" / "here") == files(200)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["here"]


def test_steps_are_passed_over_one_after_the_other(house: House, tmp_path: Path) -> None:
    house.flip(300, "weights.bin")
    house.flip(200, "small")
    record = submitted(house, to=str(tmp_path / "out"), step="latest")
    for step in (200, 100):
        house.drain()
        assert [each.spec["step"] for each in queued(house)] == [step]
    house.drain()
    outcome = house.outcome(record)
    assert outcome.state == "completed"
    assert [f"step {step} is not whole" in outcome.reason for step in (300, 200, 100)] == [True, True, False]
    assert content(tmp_path / "out") == files(100)


def test_a_step_whose_manifest_can_t_be_read_is_passed_over_when_the_job_is_submitted(
    house: House, tmp_path: Path
) -> None:
    house.store.upload(manifest_path("run", 300), [b'{"version": 99}'])
    record = submitted(house, to=str(tmp_path / "out"))
    house.drain()
    outcome = house.outcome(record)
    assert outcome.state == "completed"
    assert "step 300 is not whole" in outcome.reason
    assert "step 200 was restored instead" in outcome.reason
    assert content(tmp_path / "out") == files(200)
    house.store.upload(manifest_path("run", 200), [b"{}"])
    house.flip(100, "small")
    record = submitted(house, to=str(tmp_path / "other"))
    house.drain()
    outcome = house.outcome(record)
    assert outcome.state == "failed"
    assert all(f"step {step} is not whole" in outcome.reason for step in (300, 200, 100))
    house.store.upload(manifest_path("run", 100), [b"[]"])
    with pytest.raises(RefusedJob, match=r"no step of run is whole: step 300 .*step 200 .*step 100 "):
        house.submit(action="restore", to=str(tmp_path / "none"))


def test_when_no_step_is_whole_the_job_fails_and_names_all(house: House, tmp_path: Path) -> None:
    for step in (300, 200, 100):
        house.flip(step, "small")
    record = submitted(house, to=str(tmp_path / "out"))
    house.drain()
    while queued(house):
        house.drain()
    outcome = house.outcome(record)
    assert outcome.state == "failed"
    assert all(f"step {step} is not whole" in outcome.reason for step in (300, 200, 100))
    assert not (tmp_path / "out").exists()


def test_a_step_that_was_asked_for_is_not_replaced_by_another(house: House, tmp_path: Path) -> None:
    house.flip(300, "small")
    record = submitted(house, to=str(tmp_path / "out"), step=300)
    house.drain()
    assert house.outcome(record).state == "failed"
    assert queued(house) == []


def test_what_is_wrong_with_the_folder_is_no_reason_to_take_another_step(house: House, tmp_path: Path) -> None:
    record = submitted(house, to=str(tmp_path / "out"))
    folder_of(tmp_path / "out", {"mine": b"mine"})
    house.drain()
    assert house.outcome(record).state == "failed"
    assert queued(house) == []
    assert content(tmp_path / "out") == {"mine": b"mine"}


def test_a_cancel_reaches_the_job_that_goes_on(house: House, tmp_path: Path) -> None:
    house.flip(300, "small")
    record = submitted(house, to=str(tmp_path / "out"))
    house.drain()
    (older,) = queued(house)
    house.ledger.cancel(record.id, "not wanted any more")
    # The controller has a worker look at the end of a job whose rows have all ended.
    house.queue.appendleft(Message("embed", record.id, 0, house.ledger.turns(record.id)[0].key.number + 1, 4))
    house.drain()
    assert house.outcome(older).state == "cancelled"
    assert house.outcome(record).state == "cancelled"
    assert "step 300 is not whole" in house.outcome(record).reason
    assert not (tmp_path / "out").exists()
