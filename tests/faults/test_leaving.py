"""Workers leave when told to, and what they had in hand goes on elsewhere."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.settings import PoolSettings
from support.checks import assert_exactly_once, rows
from support.holdshort import Processes
from support.waiting import eventually

SLOW = {"embed": PoolSettings(engine="function", options={"target": "support.functions:slow_echo"})}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"quantum_s": 30.0, "pools": SLOW})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_worker_told_to_leave_parks_and_exits_with_0(
    number: signal.Signals, client: Client, processes: Processes
) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), shard_rows=100, max_parallelism=1))
    worker = processes.worker()
    eventually(lambda: "taken" in worker.text() or processes.alive() == 1, timeout=20, what="it lives")
    eventually(lambda: client.ledger.turns(job.id), timeout=20, what="it took a turn")
    worker.send(number)
    assert worker.wait(timeout=25) == 0
    assert processes.alive() == 0
    assert not job.status().has_ended
    processes.worker()
    assert_exactly_once(job, 200, job.wait(timeout=60))


def test_a_second_sigint_ends_a_worker_at_once_and_its_row_runs_elsewhere(settings: Settings, tmp_path: Path) -> None:
    pools = {"embed": PoolSettings(engine="function", options={"target": "support.functions:until_released"})}
    settings = settings.model_copy(update={"pools": pools})
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(1)))
            worker = processes.worker()
            eventually((tmp_path / "ran.log").exists, timeout=20, what="the function is called")
            worker.send(signal.SIGINT)
            eventually(lambda: "leaves" in worker.text(), timeout=10, what="the first signal was seen")
            assert worker.status is None
            worker.send(signal.SIGINT)
            assert worker.wait(timeout=5) == 130
            (tmp_path / "released").touch()
            processes.worker()
            assert_exactly_once(job, 1, job.wait(timeout=30))
    finally:
        processes.end()
        print(processes.logs())


def test_a_busy_worker_holds_no_message_beyond_the_one_in_hand(settings: Settings, tmp_path: Path) -> None:
    pools = {"embed": PoolSettings(engine="function", options={"target": "support.functions:until_released"})}
    settings = settings.model_copy(update={"pools": pools})
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            processes.worker()
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(5), shard_rows=1, max_parallelism=5))
            eventually((tmp_path / "ran.log").exists, timeout=20, what="the function is called")
            assert client.broker.depth("embed") == 4
            (tmp_path / "released").touch()
            assert_exactly_once(job, 5, job.wait(timeout=30))
    finally:
        processes.end()
        print(processes.logs())


def test_a_living_worker_keeps_its_message_for_longer_than_redelivery_takes(
    settings: Settings, client: Client, processes: Processes
) -> None:
    # About 5 s in one turn, where the message of a dead worker would be back after 2 s.
    assert settings.redelivery_s == 2.0
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(500), max_parallelism=1))
    processes.worker(ready=False)
    processes.worker(ready=False)
    assert_exactly_once(job, 500, job.wait(timeout=60))
    assert client.ledger.turns_taken_again(job.id) == []
    assert len(client.ledger.store.list(f"jobs/{job.id}/turns")) == 2, "one turn, and the one that ended it"
