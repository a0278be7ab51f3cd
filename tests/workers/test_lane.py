"""What live traffic does to real workers: they stand, wait, park, tell, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from holdshort.jobs import BatchInferenceJob, Client, Settings
from holdshort.jobs.presence import Beat, alive
from holdshort.jobs.settings import PoolSettings
from holdshort.storage.errors import SettingsError
from holdshort.storage.opening import open_store
from holdshort.workers.lane.opening import open_sources
from holdshort.workers.lane.source import Source
from holdshort.workers.serve import serve
from support.brokers import Broker, EmbeddedBroker
from support.checks import assert_exactly_once, rows
from support.holdshort import Processes, environment_of, settings_for
from support.ports import free_ports
from support.waiting import eventually

LIVE = """
import sys
from holdshort.workers import lane
with lane.live("chat"):
    print("live", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path, embedded_broker: Broker) -> Settings:
    pool = PoolSettings(
        engine="function",
        options={"target": "support.functions:slow_echo"},
        park_after_s=0.3,
        signal_loss_timeout_s=2.0,
    )
    return settings_for(tmp_path, embedded_broker.url, pools={"embed": pool}, trace_folder=tmp_path / "trace")


@pytest.fixture
def source(settings: Settings) -> Iterator[Source]:
    (found,) = open_sources(settings, "gateway")
    yield found
    found.close()


def _beat(settings: Settings) -> Beat:
    found: list[Beat] = []

    def one() -> bool:
        found[:] = alive(open_store(settings.store), "embed", now=time.time())
        return len(found) == 1

    eventually(one, timeout=20, what="one worker beats")
    return found[0]


def _trace(settings: Settings, event: str) -> list[dict[str, Any]]:
    lines = [
        line for path in Path(str(settings.trace_folder)).glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    return [found for found in map(json.loads, lines) if found["event"] == event]


def test_a_worker_that_starts_while_the_lane_is_held_runs_nothing_until_it_is_clear(
    settings: Settings, client: Client, processes: Processes, source: Source
) -> None:
    source.hold("3 live requests")
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(20), max_parallelism=1))
    worker = processes.worker(ready=False)
    eventually(lambda: _beat(settings).signal == "hold", timeout=20, what="the worker says that it holds")
    assert "gateway has had the lane" in client.why(job.id)
    assert "3 live requests" in client.why(job.id)
    assert "engine is loaded when that is over" in worker.text()
    assert "serves pool" not in worker.text()
    assert not _trace(settings, "ran")
    source.clear()
    assert_exactly_once(job, 20, job.wait(timeout=30))


def test_a_worker_that_starts_loads_its_engine_in_no_gap_between_two_requests(
    settings: Settings, processes: Processes, source: Source
) -> None:
    source.hold("a burst")
    worker = processes.worker(ready=False)
    eventually(lambda: "engine is loaded when that is over" in worker.text(), timeout=20)
    for _ in range(40):  # it looks 20 times a second
        source.clear()
        time.sleep(0.03)
        source.hold("the next request")
        time.sleep(0.03)
    assert "serves pool" not in worker.text()
    source.clear()
    eventually(lambda: "serves pool" in worker.text(), timeout=20, what="it is quiet")


def test_work_stands_while_a_server_of_ones_own_is_live_and_goes_on_after_it(
    settings: Settings, client: Client, processes: Processes
) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(300), max_parallelism=1))
    processes.worker()
    eventually(lambda: len(_trace(settings, "ran")) > 5, timeout=20, what="it works")
    live = _live_server(settings)
    try:
        eventually(lambda: _trace(settings, "yielded"), timeout=10, what="it stands")
        stood = _trace(settings, "yielded")[0]
        assert stood["still"] - stood["raised"] < 1.0
        assert live.stdin is not None
        live.stdin.close()
        assert live.wait(timeout=10) == 0
    finally:
        _kill(live)
    assert_exactly_once(job, 300, job.wait(timeout=60))
    ran = [event["at"] - event["seconds"] for event in _trace(settings, "ran")]
    gone_on = [at for at in ran if at > stood["still"]]
    assert gone_on, "it never went on"


def test_a_server_that_is_killed_while_live_stops_batch_work_until_the_time_out_and_is_counted(
    settings: Settings, client: Client, processes: Processes
) -> None:
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(300), max_parallelism=1))
    worker = processes.worker()
    eventually(lambda: len(_trace(settings, "ran")) > 5, timeout=20, what="it works")
    live = _live_server(settings)
    eventually(lambda: _trace(settings, "yielded"), timeout=10, what="it stands")
    _kill(live)
    eventually(lambda: "fell silent without goodbye" in worker.text(), timeout=10, what="the loss is logged")
    eventually(lambda: _beat(settings).totals["sources_lost"] == 1, timeout=10, what="and counted")
    assert "holdshort lane dismiss chat" in worker.text()
    assert_exactly_once(job, 300, job.wait(timeout=60))


def test_a_lost_source_is_dismissed_by_the_command_and_a_living_one_is_not(
    settings: Settings, client: Client, processes: Processes, source: Source
) -> None:
    settings = settings.model_copy(
        update={"pools": {"embed": settings.pools["embed"].model_copy(update={"signal_loss_timeout_s": 600.0})}}
    )
    processes = Processes(processes.folder, settings)
    try:
        job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), max_parallelism=1))
        live = _live_server(settings)
        _kill(live)
        processes.worker(ready=False)
        eventually(lambda: _command(settings, "lane", "dismiss", "chat")[0] == 0, timeout=20, what="it is dismissed")
        assert_exactly_once(job, 200, job.wait(timeout=30))
        status, said = _command(settings, "lane", "dismiss", "gateway")
        assert status == 3
        assert "is alive" in said
    finally:
        processes.end()


def test_a_long_hold_parks_stops_consuming_and_is_told_in_seconds_and_metrics(
    settings: Settings, client: Client, processes: Processes, source: Source
) -> None:
    pytest.importorskip("prometheus_client")
    (port,) = free_ports(1)
    pool = settings.pools["embed"].model_copy(update={"metrics": f"127.0.0.1:{port}"})
    processes = Processes(processes.folder, settings.model_copy(update={"pools": {"embed": pool}}))
    try:
        job = client.submit(BatchInferenceJob(pool="embed", input=rows(400), max_parallelism=1))
        worker = processes.worker()
        eventually(lambda: len(_trace(settings, "ran")) > 5, timeout=20, what="it works")
        source.hold("a wave of chats")
        eventually(lambda: "stopped consuming" in worker.text(), timeout=20, what="it stops consuming")
        eventually(lambda: _trace(settings, "left"), timeout=5, what="the trace says why")
        assert _trace(settings, "left")[0]["why"] == "lane"
        eventually(lambda: _beat(settings).totals["hold_s"] > 1.0, timeout=20, what="the hold is told")
        source.clear()
        assert_exactly_once(job, 400, job.wait(timeout=60))
        found = _metrics(port)
    finally:
        processes.end()
    assert found["holdshort_worker_rows_total"] == 400
    assert found["holdshort_worker_hold_seconds_total"] > 1.0
    assert found["holdshort_worker_harvested_seconds_total"] >= 4.0
    assert found["holdshort_worker_yield_seconds_count"] == 1
    assert found["holdshort_worker_lost_rows_total"] == 0, "a plain function is never stopped in the middle"
    assert found["holdshort_lane_hold"] == 0


def test_headroom_becomes_a_share_of_the_time(
    settings: Settings, client: Client, processes: Processes, source: Source
) -> None:
    source.clear(headroom=0.25, reason="p95 is 80 ms of the promised 100")
    job = client.submit(BatchInferenceJob(pool="embed", input=rows(200), max_parallelism=1))
    processes.worker()
    eventually(lambda: len(_trace(settings, "ran")) > 3, timeout=20, what="it works")
    assert "for 25% of the time" in client.why(job.id)
    assert_exactly_once(job, 200, job.wait(timeout=60))
    ran = _trace(settings, "ran")
    busy = sum(event["seconds"] for event in ran[3:])
    assert busy / (ran[-1]["at"] - ran[2]["at"]) <= 0.3


def test_a_worker_heeds_the_lane_of_its_own_device_only(
    settings: Settings, client: Client, processes: Processes
) -> None:
    pool = settings.pools["embed"].model_copy(update={"devices": ("gpu0", "gpu1")})
    settings = settings.model_copy(update={"pools": {"embed": pool}})
    (other,) = open_sources(settings, "gateway", pools=["embed"], device="gpu1")
    other.hold("live on the other one")
    processes = Processes(processes.folder, settings)
    try:
        job = client.submit(BatchInferenceJob(pool="embed", input=rows(20), max_parallelism=1))
        processes.holdshort("worker", "embed", "--device", "gpu0")
        assert_exactly_once(job, 20, job.wait(timeout=30))
        waiting = client.submit(BatchInferenceJob(pool="embed", input=rows(20), max_parallelism=1))
        processes.end()
        processes.holdshort("worker", "embed", "--device", "gpu1")
        eventually(lambda: _beat(settings).device == "gpu1", timeout=20, what="the other worker lives")
        assert not waiting.status().has_ended
        other.clear()
        assert_exactly_once(waiting, 20, waiting.wait(timeout=30))
    finally:
        processes.end()
        other.close()


def test_a_device_that_the_pool_does_not_have_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"has no device 'gpu9'.*pools\.embed\.devices"):
        serve(settings, "embed", device="gpu9")


def test_a_parked_worker_releases_the_engines_memory_where_the_pool_says_so(
    tmp_path: Path, embedded_broker: Broker
) -> None:
    pytest.importorskip("onnxruntime")
    pool = PoolSettings(engine="minilm", park_after_s=0.2, suspend_when_parked=True)
    settings = settings_for(tmp_path, embedded_broker.url, pools={"embed": pool}, trace_folder=tmp_path / "trace")
    (source,) = open_sources(settings, "gateway")
    processes = Processes(tmp_path, settings)
    try:
        with Client(settings=settings) as client:
            texts = [f"hold short of runway {n} until the tower clears you" for n in range(300)]
            job = client.submit(BatchInferenceJob(pool="embed", input=texts, max_parallelism=1, shard_rows=50))
            worker = processes.worker()
            eventually(lambda: len(_trace(settings, "ran")) > 3, timeout=30, what="it works")
            loaded = _rss_bytes(worker.pid)
            source.hold("a large model is live")
            eventually(lambda: "memory is released" in worker.text(), timeout=20, what="it suspends the engine")
            eventually(lambda: _rss_bytes(worker.pid) < loaded - 60e6, timeout=10, what="the memory is given back")
            source.clear()
            assert job.wait(timeout=60).all_ok
    finally:
        processes.end()
        source.close()


def _live_server(settings: Settings) -> subprocess.Popen[bytes]:
    """A process with a live request, once it has one; it ends when its standard input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, **environment_of(settings)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"live\n"
    process.stdout.close()
    return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _command(settings: Settings, *arguments: str) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "holdshort.cli", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, **environment_of(settings)},
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


def _metrics(port: int) -> dict[str, float]:
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_live_request_on_another_host_stops_the_work_here_and_a_broker_that_is_cut_off_keeps_it_stopped(
    tmp_path: Path, broker: Broker
) -> None:
    pool = PoolSettings(engine="function", options={"target": "support.functions:slow_echo"}, park_after_s=60.0)
    here = settings_for(
        tmp_path, broker.url, pools={"embed": pool}, trace_folder=tmp_path / "trace", lane_fanout=True, quantum_s=60.0
    )
    there = here.model_copy(update={"lane_folder": tmp_path / "other-host"})
    processes = Processes(tmp_path, here)
    (source,) = open_sources(there, "gateway")
    try:
        with Client(settings=here) as client:
            job = client.submit(BatchInferenceJob(pool="embed", input=rows(400), max_parallelism=1))
            processes.worker()
            eventually(lambda: len(_trace(here, "ran")) > 5, timeout=30, what="it works")
            source.hold("2 live requests")
            eventually(lambda: _trace(here, "yielded"), timeout=10, what="it stands")
            eventually(lambda: "gateway on " in client.why(job.id), timeout=10, what="why names the other host")
            if not isinstance(broker, EmbeddedBroker):
                stood = len(_trace(here, "ran"))
                broker.kill()
                eventually(lambda: _beat(here).totals["sources_lost"] == 1, timeout=20, what="the source is lost")
                assert _beat(here).signal == "hold"
                assert len(_trace(here, "ran")) == stood
                broker.start()
            source.clear()
            assert_exactly_once(job, 400, job.wait(timeout=60))
    finally:
        processes.end()
        source.close()
