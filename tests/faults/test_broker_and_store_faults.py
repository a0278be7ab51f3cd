"""The broker dies or loses everything; the store goes away; the controller dies. Work goes on where it was."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.controller import Controller
from holdshort.jobs.settings import PoolSettings
from support.brokers import Broker, EmbeddedBroker
from support.checks import assert_exactly_once, rows
from support.holdshort import Processes, settings_for
from support.servers import SeaweedServer
from support.waiting import eventually

SLOW = {"embed": PoolSettings(engine="function", options={"target": "support.functions:slow_echo"})}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"quantum_s": 0.5, "pools": SLOW})


def test_a_broker_killed_in_mid_job_costs_no_row(
    broker: Broker, settings: Settings, client: Client, processes: Processes
) -> None:
    if isinstance(broker, EmbeddedBroker):
        pytest.skip("the embedded broker has no process that could be killed")
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(300), shard_rows=25, max_parallelism=3))
    processes.worker()
    processes.holdshort("controller")
    eventually(lambda: job.status().done >= 50, timeout=30, what="a sixth is done")
    broker.kill()
    broker.start()
    assert_exactly_once(job, 300, job.wait(timeout=90))


def test_a_job_is_accepted_while_the_broker_is_down_and_its_messages_follow(
    broker: Broker, settings: Settings, processes: Processes, tmp_path: Path
) -> None:
    if isinstance(broker, EmbeddedBroker):
        # Down, for a file, is a folder that is not there.
        hidden = tmp_path / "away"
        settings = settings.model_copy(update={"broker": f"embedded://{hidden}/sub/broker.db"})
        hidden.write_text("in the way")
    else:
        broker.kill()
    with Client(settings=settings) as client:
        try:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(20)))
            assert job.status().state == "queued"
            assert client.ledger.unpublished() == [job.id]
        finally:
            if isinstance(broker, EmbeddedBroker):
                (tmp_path / "away").unlink()
                (tmp_path / "away" / "sub").mkdir(parents=True)
            else:
                broker.start()
        processes.settings = settings
        processes.holdshort("controller")
        processes.worker()
        assert_exactly_once(job, 20, job.wait(timeout=60))


def test_a_broker_that_lost_everything_is_rebuilt_and_no_committed_shard_runs_again(
    broker: Broker, settings: Settings, client: Client, processes: Processes, tmp_path: Path
) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(300), shard_rows=25, max_parallelism=3))
    worker = processes.worker()
    eventually(lambda: len(client.ledger.committed(job.id)) >= 4, timeout=30, what="four shards are committed")
    worker.kill()
    client.close()
    broker.wipe()
    committed = client.ledger.committed(job.id)
    ran = tmp_path / "ran.log"
    before = len(ran.read_text().splitlines())
    assert client.recover() == [job.id]
    processes.worker()
    assert_exactly_once(job, 300, job.wait(timeout=60))
    done_twice = {line.split()[0] for line in ran.read_text().splitlines()[before:]}
    finished = {f"row-{n:06d}" for shard in committed for n in range(shard * 25, shard * 25 + 25)}
    assert not done_twice & finished


def test_a_killed_controller_is_replaced_and_the_job_goes_on(embedded_broker: Broker, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, embedded_broker.url, quantum_s=0.5, pools=SLOW)
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(150), shard_rows=25))
            processes.worker()
            first = processes.holdshort("controller")
            eventually(lambda: client.ledger.store.list("leader"), timeout=20, what="a controller leads")
            first.kill()
            with closing(Controller(settings)) as second:
                eventually(second.lease.held, timeout=30, what="the second controller leads")
                second.sweep()
            assert_exactly_once(job, 150, job.wait(timeout=60))
    finally:
        processes.end()
        print(processes.logs())


def test_a_store_folder_that_goes_away_in_mid_job_is_waited_for(embedded_broker: Broker, tmp_path: Path) -> None:
    settings = settings_for(tmp_path, embedded_broker.url, quantum_s=1.0, pools=SLOW)
    processes = Processes(tmp_path, settings)
    store, away = tmp_path / "store", tmp_path / "away"
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), shard_rows=20))
            worker = processes.worker()
            eventually(lambda: job.status().done >= 40, timeout=30, what="a fifth is done")
            store.rename(away)
            eventually(lambda: "Waiting (for" in worker.text(), timeout=30, what="the worker waits for the store")
            if store.exists():
                shutil.rmtree(store)
            away.rename(store)
            assert_exactly_once(job, 200, job.wait(timeout=60))
            assert worker.status is None
    finally:
        processes.end()
        print(processes.logs())


def test_an_s3_server_killed_in_mid_job_is_waited_for(
    embedded_broker: Broker, s3_server: SeaweedServer, s3_url: str, tmp_path: Path
) -> None:
    settings = settings_for(
        tmp_path,
        embedded_broker.url,
        store=s3_url,
        store_options=s3_server.options,
        quantum_s=1.0,
        pools=SLOW,
    )
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), shard_rows=20))
            processes.worker()
            eventually(lambda: job.status().done >= 40, timeout=60, what="a fifth is done")
            s3_server.kill()
            s3_server.start()
            assert_exactly_once(job, 200, job.wait(timeout=90))
    finally:
        processes.end()
        print(processes.logs())
