"""What is done of a large file stays done, whoever dies, holds, parks or cancels."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdshort.jobs import BatchInferenceJob, CheckpointJob, Client, Settings
from holdshort.jobs.checkpoints.abandoned import ABANDONED_AGE_S, sweep_unfinished
from holdshort.jobs.checkpoints.ending import drop_left
from holdshort.jobs.checkpoints.places import Places
from holdshort.jobs.checkpoints.uploads import Uploads
from holdshort.jobs.input import parse, unpack
from holdshort.jobs.rows import Row
from holdshort.jobs.settling import settle
from holdshort.storage.checkpoints.manifest import read_manifest, steps, verify
from holdshort.storage.opening import open_store
from holdshort.storage.remote import RemoteStore
from holdshort.storage.store import Store
from holdshort.workers.lane.reading import CLEAR, Reading
from holdshort.workers.observer import Observer, Point
from support.brokers import EmbeddedBroker
from support.checkpoints import MIB, SLICE, House, content, folder_of, noise
from support.holdshort import Processes, settings_for
from support.servers import SeaweedServer
from support.slow_line import SlowLine
from support.waiting import eventually

LARGE = noise(6 * SLICE + 5)
FILES = {"large.bin": LARGE, "small": b"s", "zebra": b"z"}
AS_LONG_AS_IT_TAKES = 60


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    broker = EmbeddedBroker(tmp_path / "broker")
    broker.start()
    if request.param == "local":
        return settings_for(tmp_path, broker.url)
    server = request.getfixturevalue("s3_server")
    url = request.getfixturevalue("s3_url")
    return settings_for(
        tmp_path, broker.url, store=url, store_options=server.options, replicas={f"{url}-other": server.options}
    )


@pytest.fixture
def store(settings: Settings) -> Store:
    return open_store(settings.store, storage_options=settings.store_options)


@pytest.fixture
def house(store: Store, settings: Settings) -> House:
    return House(store, settings.replicas)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "source", FILES)


def workers_of(house: House, job: str) -> list[str]:
    return [house.ledger.summary(job, shard).worker for shard in house.ledger.committed(job)]


# -- killed ----------------------------------------------------------------------------------------------


def test_a_worker_killed_in_mid_file_loses_one_slice_and_the_next_goes_on(
    settings: Settings, client: Client, processes: Processes, house: House, source: Path
) -> None:
    job = client.submit(
        CheckpointJob(pool="embed", source=str(source), name="run", step=1, slice_bytes=SLICE, max_parallelism=1)
    )
    doomed = processes.worker(kill_at="before_commit", nth=4, ready=False)
    assert doomed.wait() == -signal.SIGKILL
    assert steps(house.store, "run") == []
    assert len(house.unfinished()) == 1
    (first,) = set(workers_of(house, job.id))
    committed = house.ledger.committed(job.id)
    assert len(committed) == 3, "three slices are done, the fourth was moved and not committed"
    assert (
        job.status().bytes_done == 3 * SLICE if settings.store.startswith("s3") else (job.status().bytes_done or 0) > 0
    )
    processes.worker()
    assert job.wait(timeout=AS_LONG_AS_IT_TAKES).all_ok
    assert workers_of(house, job.id)[:3] == [first] * 3, "none of them was done again"
    assert len(set(workers_of(house, job.id))) == 2
    assert house.contents(1) == FILES
    assert house.unfinished() == []


def test_a_replication_killed_in_mid_file_goes_on(
    settings: Settings, client: Client, processes: Processes, house: House, source: Path
) -> None:
    house.saved(source, 1)
    to = f"{settings.store}-other"
    target = open_store(to, storage_options=settings.store_options)
    job = client.submit(
        CheckpointJob(pool="embed", action="replicate", to=to, name="run", slice_bytes=SLICE, max_parallelism=1)
    )
    assert processes.worker(kill_at="after_commit", nth=3, ready=False).wait() == -signal.SIGKILL
    assert steps(target, "run") == []
    assert len(house.unfinished(target)) == 1
    processes.worker()
    assert job.wait(timeout=AS_LONG_AS_IT_TAKES).all_ok
    assert house.contents(1, target) == FILES
    assert house.unfinished(target) == []
    assert {problem for _, problem in verify(target, read_manifest(target, "run", 1))} == {""}


# -- cancelled, expired, abandoned -----------------------------------------------------------------------


class Acts(Observer):
    """Calls something the nth time that a point is reached."""

    def __init__(self, point: Point, nth: int, act: object) -> None:
        self._point, self._left, self._act = point, nth, act

    def at(self, point: Point, *, job: str, stripe: int, shard: int | None) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                assert callable(self._act)
                self._act()


def test_a_cancelled_job_drops_what_it_began(house: House, source: Path) -> None:
    folder_of(source, {"a small file": b"first"})
    record = house.submit(source=str(source), step=1, max_parallelism=1)
    cancels = Acts("after_commit", 2, lambda: house.ledger.cancel(record.id, "no need"))
    house.drain(house.runner(observer=cancels, control_interval_s=0.001, quantum_s=1e-6))
    assert house.outcome(record).state == "cancelled"
    assert house.unfinished() == []
    assert house.store.list(f"checkpoints/run/000000000001/{record.id}") == [], "nor is anything of it left"
    assert steps(house.store, "run") == []


def test_what_a_dead_worker_of_a_cancelled_job_began_is_dropped_by_whoever_ends_the_job(
    house: House, source: Path
) -> None:
    record = house.submit(source=str(source), step=1, max_parallelism=1)
    house.runner(quantum_s=1e-6).advance(house.queue.popleft(), redelivered=False)
    assert len(house.unfinished()) == 1
    house.ledger.cancel(record.id, "")
    # As the controller does.
    house.ledger.end_stripe(record, 0, "cancelled", by="controller")
    outcome = settle(house.ledger, record, Places({}))
    assert outcome is not None
    assert outcome.state == "cancelled"
    assert house.unfinished() == []
    # One that slept meanwhile begins it anew; that is dropped when the controller looks again.
    parted = house.store.parted
    assert parted is not None

    path = house.own_path(record, "late.bin")
    late = Uploads(house.store, record.id).of(99, path, lambda: parted.begin(path), lambda _: None)
    assert not late.was_there
    assert len(house.unfinished()) == 1
    drop_left(house.ledger, record, Places({}))
    assert house.unfinished() == []


def test_parts_that_nobody_noted_are_dropped_after_a_week_and_those_of_running_jobs_stay(
    house: House, source: Path
) -> None:
    record = house.submit(source=str(source), step=1, max_parallelism=1)
    house.runner(quantum_s=1e-6).advance(house.queue.popleft(), redelivered=False)
    parted = house.store.parted
    assert parted is not None
    parted.begin("checkpoints/run/000000000002/dead/x")  # by a worker that died before it could note it
    now = time.time()
    assert sweep_unfinished(house.ledger, now=now + 60) == 0
    assert len(house.unfinished()) == 2
    assert sweep_unfinished(house.ledger, now=now + ABANDONED_AGE_S + 60) == 1
    assert len(house.unfinished()) == 1
    house.drain()
    assert house.outcome(record).state == "completed"
    assert house.contents(1) == FILES


# -- several at once -------------------------------------------------------------------------------------


def test_two_workers_write_one_file_together(house: House, source: Path) -> None:
    record = house.submit(source=str(source), step=1, max_parallelism=4)
    together = threading.Barrier(2)

    def work() -> None:
        runner = house.runner(observer=Acts("micro_batch", 1, lambda: together.wait(30)), quantum_s=0.01)
        while True:
            try:
                message = house.queue.popleft()
            except IndexError:
                return
            runner.advance(message, redelivered=False)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(AS_LONG_AS_IT_TAKES)
    house.drain()
    assert house.outcome(record).state == "completed", house.outcome(record)
    assert house.contents(1) == FILES
    assert house.unfinished() == []


def test_a_superseded_worker_does_not_harm_the_file(house: House, source: Path) -> None:
    """Two workers do the same slices, each thinking that they are its own."""
    record = house.submit(source=str(source), step=1, max_parallelism=1)
    message = house.queue.popleft()
    slow = house.runner(observer=Acts("before_commit", 2, lambda: house.runner().advance(message, redelivered=True)))
    slow.advance(message, redelivered=False)
    assert house.outcome(record).state == "completed", house.outcome(record)
    assert house.contents(1) == FILES


# -- held ------------------------------------------------------------------------------------------------


def test_no_byte_moves_while_the_lane_is_held_and_work_goes_on_where_it_stopped(
    s3_server: SeaweedServer, s3_url: str, tmp_path: Path
) -> None:
    bound_s, data, rate = 0.1, noise(6 * SLICE), 8 * MIB  # a second for each piece
    port = urlsplit(s3_server.endpoint).port or 0
    with SlowLine(port, rate).carrying() as line, SlowLine(port, rate).carrying() as beside:
        options = {**s3_server.options, "endpoint_url": f"http://127.0.0.1:{line.port}"}
        others = RemoteStore(
            f"{s3_url}-others",
            storage_options={**s3_server.options, "endpoint_url": f"http://127.0.0.1:{beside.port}"},
        )
        house = House(open_store(s3_url, storage_options=options))
        source = folder_of(tmp_path / "source", {"large.bin": data})
        record = house.submit(source=str(source), step=1, max_parallelism=1, slice_bytes=3 * SLICE)
        engine = house.engine(bound_s=bound_s)
        runner = house.runner(engine, yield_bound_s=bound_s, park_after_s=600, quantum_s=600)
        worker = threading.Thread(target=house.drain, args=(runner,), daemon=True)
        begin = time.monotonic()
        worker.start()
        for number in range(3):
            seen = line.came(begin)
            eventually(lambda seen=seen: line.came(begin) > seen + MIB, timeout=30, what="bytes move")
            held_at = time.monotonic()
            house.lane = Reading("hold", 0.0, "a request", "gateway", since=held_at)
            runner.wake()
            # On an equal line so much moves meanwhile as takes three bounds.
            assert others.create(f"moved-{number}", noise(int(3 * bound_s * rate)))
            still_at = time.monotonic()
            # The promise, and half as long again for a machine that is busy. A few bytes are not of the checkpoint.
            assert line.came(held_at + 1.5 * bound_s, still_at) < 64 * 1024
            assert worker.is_alive()
            house.lane = CLEAR
            runner.wake()
        worker.join(AS_LONG_AS_IT_TAKES)
        assert not worker.is_alive()
        assert house.outcome(record).state == "completed", house.outcome(record)
        # All bytes went once, and once more what was under way when a hold came: at most three pieces each time.
        assert line.came(begin) <= len(data) + 3 * 3 * SLICE + MIB
        assert house.contents(1) == {"large.bin": data}


def test_what_was_finished_before_an_interruption_is_not_moved_again(tmp_path: Path) -> None:
    house = House(open_store(str(tmp_path / "store")))
    source = folder_of(tmp_path / "source", {"large.bin": noise(2 * SLICE)})
    record = house.submit(source=str(source), step=1, slice_bytes=2 * SLICE)
    engine = house.engine()
    custom_id, _, body = parse(unpack(house.ledger.input_shard(record, 0))[0])
    row = Row(0, custom_id, {**record.params, **body})
    first, second = engine.units(row)
    (kept,) = engine.infer([first])
    assert engine.moved_bytes == 2 * SLICE, "read and written"
    outputs = engine.infer([first, second])
    assert outputs[0] == kept
    assert engine.moved_bytes == 4 * SLICE
    assert "tags" not in engine.finish(row, outputs)


def test_a_parked_job_goes_on_behind_its_last_slice(house: House, source: Path) -> None:
    record = house.submit(source=str(source), step=1, max_parallelism=1)
    engine = house.engine()

    def hold() -> None:
        house.lane = Reading("hold", 0.0, "a request", "gateway", since=time.monotonic())

    runner = house.runner(engine, observer=Acts("after_commit", 3, hold), park_after_s=0.01)
    assert runner.advance(house.queue.popleft(), redelivered=False) == "continued"
    assert len(house.ledger.committed(record.id)) == 3
    house.lane = CLEAR
    other = house.engine()
    house.drain(house.runner(other))
    assert house.outcome(record).state == "completed"
    assert house.contents(1) == FILES
    done = record.bytes_of(range(3))
    assert other.moved_bytes <= 2 * ((record.size_bytes or 0) - done), "what was committed is not moved again"


# -- a disk that is full ---------------------------------------------------------------------------------

FULL = """
import resource, signal, sys, threading, logging
from pathlib import Path
from holdshort.storage.opening import open_store
from holdshort.storage.remote import RemoteStore
from support.checkpoints import House, folder_of, noise, SLICE
from support.waiting import eventually

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logged = []
class Keep(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())
logging.getLogger("holdshort").addHandler(Keep())
root, action = Path(sys.argv[1]), sys.argv[2]
house = House(open_store(str(root / "store")))
data = {"large.bin": noise(3 * SLICE)}
source = folder_of(root / "source", data)
def small(most):
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
if action == "save":
    record = house.submit(source=str(source), step=1)
    small(SLICE + 1000)
    worker = threading.Thread(target=house.drain)
    worker.start()
    eventually(lambda: any("No space left" in line and "Waiting" in line for line in logged), what="it waits")
    assert worker.is_alive() and house.ledger.outcome(record.id) is None
    small(resource.RLIM_INFINITY)
    worker.join(60)
    assert house.outcome(record).state == "completed", house.outcome(record)
    assert house.contents(1) == data
else:
    house.saved(source, 1)
    record = house.submit(action="restore", to=str(root / "out"), max_attempts=2)
    small(SLICE + 1000)
    house.drain(house.runner(house.engine(patience_s=0.0)))
    outcome = house.outcome(record)
    assert outcome.state == "failed" and "No space left" in outcome.reason, outcome
    assert not (root / "out").exists() and not list(root.glob(".out*"))
print("done")
"""


@pytest.mark.parametrize("action", ["save", "restore"])
def test_a_full_store_is_waited_for_and_a_full_target_is_said(tmp_path: Path, action: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), action], capture_output=True, text=True, timeout=100,
        env={"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ran.stdout == "done\n", ran.stderr[-3000:]


# -- one queue with everything else ----------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["local"], indirect=True)
def test_an_urgent_copy_passes_a_bulk_job_in_the_same_queue(
    settings: Settings, client: Client, processes: Processes, source: Path, tmp_path: Path
) -> None:
    rows = [f"text {n}" for n in range(6000)]
    processes.worker()
    bulk = client.submit(BatchInferenceJob(pool="embed", input=rows, priority="bulk", shard_rows=200))
    eventually(lambda: bulk.status().state == "running", what="the batch runs")
    copies = [
        client.submit(CheckpointJob(pool="embed", source=str(source), name="run", step=1, priority="urgent")),
    ]
    assert copies[0].wait(timeout=AS_LONG_AS_IT_TAKES).all_ok
    assert not bulk.status().has_ended
    restore = client.submit(
        CheckpointJob(pool="embed", action="restore", name="run", to=str(tmp_path / "out"), priority="urgent")
    )
    assert restore.wait(timeout=AS_LONG_AS_IT_TAKES, progress=True).all_ok
    assert content(tmp_path / "out") == FILES
    bulk.cancel()
