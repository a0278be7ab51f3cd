"""Rows that kill their process, or fail, end as errors; the others do not notice."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.settings import PoolSettings
from support.brokers import Broker
from support.holdshort import Processes


@pytest.fixture
def broker(embedded_broker: Broker) -> Broker:
    return embedded_broker


def _pool(settings: Settings, function: str) -> Settings:
    pools = {"embed": PoolSettings(engine="function", options={"target": f"support.functions:{function}"})}
    return settings.model_copy(update={"pools": pools})


def test_a_row_that_kills_its_process_is_found_and_isolated_within_its_attempts(
    tmp_path: Path, settings: Settings
) -> None:
    settings = _pool(settings, "deadly")
    processes = Processes(tmp_path, settings)
    inputs = [{"custom_id": f"r{n}", "input": "kill" if n == 77 else f"text {n}"} for n in range(200)]
    deaths = 0
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=inputs, max_attempts=3, max_parallelism=1))
            worker = processes.worker(ready=False)
            while not job.status().has_ended:
                if worker.status is not None:
                    assert worker.status == -signal.SIGKILL
                    deaths += 1
                    assert deaths <= 3, processes.logs()
                    worker = processes.worker(ready=False)
            found = {row.custom_id: row for row in job.results(follow=False)}
            status = job.status()
    finally:
        processes.end()
    assert deaths == 3
    assert found["r77"].error is not None
    assert found["r77"].error["code"] == "worker_lost"
    assert status.counts.as_dict() == {"ok": 199, "error": 1, "expired": 0, "cancelled": 0}


def test_a_failing_row_ends_as_an_error_line_and_a_flaky_one_is_tried_again(tmp_path: Path, settings: Settings) -> None:
    settings = _pool(settings, "picky")
    inputs = [{"custom_id": f"r{n}", "input": {3: "bad", 7: "flaky"}.get(n, "fine")} for n in range(40)]
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=inputs))
            processes.worker()
            status = job.wait(timeout=30)
            found = {row.custom_id: row for row in job.results(follow=False)}
    finally:
        processes.end()
    assert status.counts.as_dict() == {"ok": 39, "error": 1, "expired": 0, "cancelled": 0}
    assert found["r3"].error is not None
    assert "cannot digest this row" in found["r3"].error["message"]
    assert found["r7"].body == {"echo": "flaky"}


def test_a_row_that_keeps_failing_is_given_up_after_max_attempts(tmp_path: Path, settings: Settings) -> None:
    settings = _pool(settings, "unreachable")
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=["a"], max_attempts=2))
            processes.worker()
            status = job.wait(timeout=30)
            (row,) = job.results(follow=False)
    finally:
        processes.end()
    assert status.counts.error == 1
    assert row.error is not None
    assert "tried 2 times" in row.error["message"]
    assert len((tmp_path / "ran.log").read_text().splitlines()) == 2
