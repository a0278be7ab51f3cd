"""Who runs first, and what steering does, on every broker."""

from __future__ import annotations

import random
import signal
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.broker.broker import Broker as Publisher
from holdshort.jobs.broker.broker import connection, queue_name
from holdshort.jobs.broker.message import Message
from holdshort.jobs.controller import Controller
from holdshort.jobs.settings import PoolSettings
from support.brokers import Broker
from support.checks import assert_exactly_once, rows
from support.holdshort import Processes, settings_for
from support.waiting import eventually

SLOW = {"embed": PoolSettings(engine="function", options={"target": "support.functions:slow_echo"})}


def test_a_hundred_mixed_priorities_come_out_without_one_inversion(settings: Settings) -> None:
    publisher = Publisher(settings)
    order = [priority for priority in range(10) for _ in range(10)]
    random.Random(7).shuffle(order)
    publisher.publish(Message("embed", f"job{n}", 0, 1, priority) for n, priority in enumerate(order))
    assert publisher.depth("embed") == 100
    received: list[Message] = []
    with connection(settings.broker, publisher.transport) as consuming:
        channel = consuming.channel()
        queue = publisher.queue("embed")(channel)

        def take() -> bool:
            message = queue.get(accept=["json"])
            if message is not None:
                received.append(Message.parse(message.payload[0]))
                message.ack()
            return len(received) == 100

        eventually(take, timeout=30, every=0, what=f"100 messages from {queue_name('embed')}")
    publisher.close()
    # Most urgent first, and of equal ones the earlier first.
    numbers = [(-message.priority, int(message.job.removeprefix("job"))) for message in received]
    assert numbers == sorted(numbers)


def test_an_urgent_job_overtakes_a_bulk_job_within_two_quanta(settings: Settings, tmp_path: Path) -> None:
    quantum_s = 1.0
    settings = settings.model_copy(update={"quantum_s": quantum_s})
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            bulk = client.submit(
                BatchInferenceJob(pool="embed", input=rows(10_000), priority="bulk", max_parallelism=1)
            )
            processes.worker()
            eventually(lambda: bulk.status().done > 0, timeout=20, what="the bulk job runs")
            begin = time.monotonic()
            urgent = client.submit(BatchInferenceJob(pool="embed", input=rows(10), priority="urgent"))
            assert_exactly_once(urgent, 10, urgent.wait(timeout=30))
            # On a busy machine a quantum is a little longer: a micro-batch and a commit come on top.
            assert time.monotonic() - begin < 2 * quantum_s + 1.0
            assert not bulk.status().has_ended
            bulk.cancel()
    finally:
        processes.end()
        print(processes.logs())


@pytest.fixture
def slow(tmp_path: Path, embedded_broker: Broker) -> Settings:
    return settings_for(tmp_path, embedded_broker.url, pools=SLOW, quantum_s=5.0)


@pytest.fixture
def running(slow: Settings, tmp_path: Path) -> Processes:
    return Processes(tmp_path, slow)


def test_cancelling_keeps_what_is_done_and_counts_the_rest(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(400), shard_rows=50, max_parallelism=2))
            running.worker()
            eventually(lambda: job.status().done >= 50, timeout=30, what="a shard is done")
            assert job.cancel("wrong folder")
            assert not job.cancel("again")
            running.holdshort("controller")
            status = job.wait(timeout=30)
            outcomes = [row.outcome for row in job.results()]
    finally:
        running.end()
        print(running.logs())
    assert status.state == "cancelled"
    assert status.reason == "wrong folder"
    assert status.counts.ok >= 50
    assert status.counts.total == 400
    assert outcomes.count("ok") == status.counts.ok
    assert outcomes.count("cancelled") == status.counts.cancelled > 0


def test_cancelling_a_job_that_nobody_has_begun_ends_it_at_once(slow: Settings) -> None:
    with Client(settings=slow) as client:
        job = client.submit(BatchInferenceJob(pool="embed", input=rows(10)))
        assert job.cancel()
        assert job.status().state == "cancelled"
        assert [row.outcome for row in job.results()] == ["cancelled"] * 10


def test_a_deadline_that_passed_ends_its_rows_as_expired(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            past = client.submit(
                BatchInferenceJob(pool="embed", input=rows(10), deadline=datetime.now(UTC) - timedelta(hours=1))
            )
            running.holdshort("controller")
            status = past.wait(timeout=30)
            soon = client.submit(BatchInferenceJob(pool="embed", input=rows(1000), deadline="2s", max_parallelism=1))
            running.worker()
            cut = soon.wait(timeout=30)
            outcomes = [row.outcome for row in soon.results()]
    finally:
        running.end()
        print(running.logs())
    assert (status.state, status.counts.expired) == ("expired", 10)
    assert cut.state == "expired"
    assert cut.counts.total == 1000
    assert outcomes.count("ok") == cut.counts.ok
    assert outcomes.count("expired") == cut.counts.expired > 0


def test_a_paused_job_rests_until_it_is_resumed(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), shard_rows=20, max_parallelism=2))
            running.worker()
            eventually(lambda: job.status().done >= 20, timeout=30, what="a shard is done")
            assert job.pause()
            assert not job.pause()
            ran = Path(slow.store).parent / "ran.log"
            eventually(lambda: _at_rest(ran), timeout=20, what="nothing runs")
            assert job.status().state == "paused"
            assert "paused" in job.why()
            assert job.resume()
            assert_exactly_once(job, 200, job.wait(timeout=30))
    finally:
        running.end()
        print(running.logs())


def test_a_held_pool_stands_still_and_goes_on_when_it_is_cleared(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), shard_rows=20))
            running.worker()
            eventually(lambda: job.status().done >= 20, timeout=30, what="a shard is done")
            client.hold("embed", for_s=600, reason="load test", by="ana")
            ran = Path(slow.store).parent / "ran.log"
            eventually(lambda: _at_rest(ran, for_s=1.5), timeout=20, what="nothing runs")
            assert "load test" in job.why()
            assert client.clear("embed")
            assert_exactly_once(job, 200, job.wait(timeout=30))
    finally:
        running.end()
        print(running.logs())


def test_retrying_runs_only_the_rows_that_are_not_ok(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(400), shard_rows=40, max_parallelism=1))
            running.worker()
            eventually(lambda: job.status().done >= 40, timeout=30, what="a shard is done")
            job.cancel()
            first = job.wait(timeout=30)
            again = client.retry(job.id)
            assert client.retry(job.id).id == again.id
            second = again.wait(timeout=30)
            ids = [row.custom_id for row in job.results() if row.outcome == "ok"]
            ids += [row.custom_id for row in again.results()]
    finally:
        running.end()
        print(running.logs())
    assert first.counts.ok + second.counts.ok == 400
    assert sorted(ids) == [row["custom_id"] for row in rows(400)]


def test_a_job_that_waits_for_long_is_published_again_more_urgently(slow: Settings) -> None:
    with Client(settings=slow) as client:
        job = client.submit(BatchInferenceJob(pool="embed", input=rows(4), priority="bulk", max_parallelism=1))
        with closing(Controller(slow, clock=lambda: time.time() + 3 * 600)) as later:
            assert later.lease.held()
            later.sweep()
        assert client.broker.depth("embed") == 2
        assert job.status().priority == 1


def _at_rest(log: Path, *, for_s: float = 1.0) -> bool:
    """Whether a file has not grown for a while."""
    return time.time() - log.stat().st_mtime >= for_s


def test_a_message_that_got_lost_is_published_again_once_the_queue_is_empty(slow: Settings) -> None:
    with Client(settings=slow) as client:
        client.submit(BatchInferenceJob(pool="embed", input=rows(4), max_parallelism=1))
        assert client.broker.purge("embed") == 1
        with closing(Controller(slow, clock=lambda: time.time() + 30)) as soon:
            assert soon.lease.held()
            soon.sweep()
            assert client.broker.depth("embed") == 1
            soon.sweep()
            assert client.broker.depth("embed") == 1


def test_after_a_crash_a_worker_that_starts_on_a_held_pool_loses_nothing(slow: Settings, running: Processes) -> None:
    try:
        with Client(settings=slow) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(60), shard_rows=20, max_parallelism=1))
            doomed = running.worker(kill_at="before_commit", ready=False)
            assert doomed.wait(timeout=30) == -signal.SIGKILL
            client.hold("embed", reason="deploy")
            second = running.worker(ready=False)
            eventually(lambda: "engine is loaded when that is over" in second.text(), timeout=30)
            client.clear("embed")
            assert_exactly_once(job, 60, job.wait(timeout=60))
    finally:
        running.end()
        print(running.logs())
