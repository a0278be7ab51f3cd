"""What the controller removes, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings, UnknownJob
from holdshort.jobs.controller import Controller
from holdshort.jobs.identity import new_id
from support.brokers import Broker
from support.checks import rows
from support.holdshort import settings_for

DAY_S = 86400.0


@pytest.fixture
def settings(tmp_path: Path, embedded_broker: Broker) -> Settings:
    return settings_for(tmp_path, embedded_broker.url, retention_s=10 * DAY_S)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings) as found:
        yield found


def _tidy(settings: Settings, *, after_s: float) -> None:
    with closing(Controller(settings, clock=lambda: time.time() + after_s)) as controller:
        controller.tidy()


def test_an_ended_job_is_kept_for_its_retention_and_removed_after_it(settings: Settings, client: Client) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(3)))
    job.cancel()
    _tidy(settings, after_s=9 * DAY_S)
    assert [row.outcome for row in job.results()] == ["cancelled"] * 3
    _tidy(settings, after_s=11 * DAY_S)
    with Client(settings=settings) as fresh, pytest.raises(UnknownJob):
        fresh.job(job.id)
    assert not (Path(settings.store) / "jobs" / job.id).exists()


def test_a_job_that_has_not_ended_is_never_removed(settings: Settings, client: Client) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(3)))
    _tidy(settings, after_s=1000 * DAY_S)
    assert job.status().state == "queued"


def test_an_upload_that_became_no_job_is_removed_after_a_day(settings: Settings, client: Client) -> None:
    job_id, upload = new_id(), new_id()
    client.ledger.put_input(job_id, upload, 0, b"data")
    folder = Path(settings.store) / "jobs" / job_id / "input" / upload
    _tidy(settings, after_s=DAY_S / 2)
    assert folder.exists()
    _tidy(settings, after_s=DAY_S * 1.1)
    assert not folder.exists()
